use super::*;

const CONGESTION: &str = include_str!("../../../../deploy/examples/congestion.yaml");

fn documents(text: &str) -> Result<Vec<Document>, Problem> {
    Source { name: "job.yaml".to_owned(), text: text.to_owned() }.documents()
}

/// What is wrong with a file, as it is shown.
async fn problems(text: &str) -> Vec<String> {
    let documents = match documents(text) {
        Ok(documents) => documents,
        Err(problem) => return vec![problem.to_string()],
    };
    let mut found = Vec::new();
    for document in &documents {
        match document.job() {
            Err(problem) => found.push(problem.to_string()),
            Ok(job) => found.extend(check(&job).await.into_iter().map(|v| document.problem(v).to_string())),
        }
    }
    found
}

/// `line:column` of a text's first occurrence in a file.
fn place(text: &str, of: &str) -> String {
    let before = &text[..text.find(of).unwrap()];
    let line = before.lines().count().max(1) + usize::from(before.ends_with('\n'));
    let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
    format!("job.yaml:{line}:{column}: ")
}

#[tokio::test]
async fn every_example_is_valid_and_named_as_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    let mut names = vec![];
    for source in sources(&[folder]).unwrap() {
        let file = built_in(&source.text).unwrap();
        assert_eq!(check(&file).await, [], "{}", source.name);
        assert_eq!(Path::new(&source.name).file_stem().unwrap().to_str(), Some(file.metadata.name.as_str()));
        names.push(file.metadata.name.to_string());
    }
    names.sort();
    assert_eq!(
        names,
        ["air-quality", "amend", "congestion", "detectors", "metro", "retention", "shifts", "trips", "volume"]
    );
}

#[tokio::test]
async fn each_mistake_is_shown_at_its_line_and_column_with_path_and_advice() {
    let mistakes = [
        ("lateness: 10m", "latenes: 10m", "latenes", "spec.latenes: ", "did you mean `lateness`?"),
        ("lateness: 10m", "lateness: 5s", "5s", "spec.lateness: ", "must exceed 1m30s"),
        ("lateness: 10m", "lateness: soon", "soon", "spec.lateness: ", "e.g. 15m"),
        ("America/Chicago", "Amerika/Chicago", "Amerika", "spec.window.timeZone: ", "did you mean America/Chicago?"),
        ("every: day", "every: dai", "dai", "spec.window.every: ", "day, week, month, shift or volume"),
        ("speed: f64", "speed: f46", "f46", "spec.source.values.speed: ", "f64"),
        ("sum(speed)", "sum(sped)", "sped", "spec.map: ", "speed"),
        ("SELECT date_part", "SELEKT date_part", "SELEKT", "spec.map: ", "[SQL_SYNTAX]"),
        ("sum(n_speed)", "sum(n_sped)", "n_sped)", "spec.reduce: ", "n_speed"),
        ("topic: traffic", "topic: 7", "7", "spec.source.topic: ", "quotes"),
        ("kind: Job", "kind: Deployment", "Deployment", "kind: ", "Job"),
        ("windrow/v1", "windrow/v9", "windrow/v9", "apiVersion: ", "windrow/v1"),
        ("    topic: traffic\n", "", "source:", "spec.source.topic: ", "missing"),
    ];
    for (right, wrong, at, path, advice) in mistakes {
        let text = CONGESTION.replacen(right, wrong, 1);
        let found = problems(&text).await;
        let first = found.first().unwrap_or_else(|| panic!("{wrong} passed"));
        let expected = place(&text, at) + path;
        assert!(first.starts_with(&expected) && first.contains(advice), "{wrong}: expected {expected}, found {first}");
    }
}

#[tokio::test]
async fn sql_on_one_line_is_shown_exactly_too() {
    for sql in
        ["map: SELECT sped FROM readings", "map: 'SELECT sped FROM readings'", "map: \"SELECT sped FROM readings\""]
    {
        let head = "apiVersion: windrow/v1\nkind: Job\nmetadata: {name: a}\nspec:\n  source: {topic: t}\n";
        let text = format!("{head}  window: {{every: 1h}}\n  {sql}\n");
        let found = problems(&text).await;
        assert!(found[0].starts_with(&place(&text, "sped")), "{found:?}");
    }
}

#[tokio::test]
async fn several_documents_are_read_and_the_wrong_one_is_named_by_its_line() {
    let text = format!("{CONGESTION}\n---\n{}", CONGESTION.replace("name: congestion", "nam: b"));
    assert_eq!(documents(&text).unwrap().len(), 2);
    let found = problems(&text).await;
    assert!(found.len() == 1 && found[0].starts_with(&place(&text, "nam: b")), "{found:?}");
}

#[tokio::test]
async fn what_is_no_yaml_or_nothing_is_refused() {
    for (text, why) in [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("a: [1", "job.yaml:"),
        ("a: 1\na: 2\n", "job.yaml:2:1"),
        ("- 1\n", "invalid type"),
    ] {
        let found = problems(text).await;
        assert!(found.len() == 1 && found[0].contains(why), "{text:?}: {found:?}");
    }
}

#[test]
fn a_folder_without_job_files_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(sources(&[folder.path().to_owned()]).is_err());
    std::fs::write(folder.path().join("b.yaml"), "b").unwrap();
    std::fs::write(folder.path().join("a.yml"), "a").unwrap();
    std::fs::write(folder.path().join("c.txt"), "c").unwrap();
    let texts: Vec<_> = sources(&[folder.path().to_owned()]).unwrap().into_iter().map(|source| source.text).collect();
    assert_eq!(texts, ["a", "b"]);
}
