use super::*;

/// A process that lives until it is stopped; its odd number of seconds is the mark in its command line.
fn sleeper(dir: &Path) -> (Child, String) {
    let mark = format!("{}.25", 1_000_000 + u64::from(std::process::id()));
    let child = spawn_daemon(Command::new("sleep").arg(&mark), &dir.join("log")).expect("sleep starts");
    (child, mark)
}

#[test]
fn a_command_that_fails_shows_the_end_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo first; echo 'no space left' >&2; exit 3"]);
    let error = run_logged("test", &mut command, &dir.path().join("log"), &Abort::default()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("exit status: 3"), "{message}");
    assert!(message.contains("no space left"), "{message}");
}

#[test]
fn an_abort_ends_a_running_command() {
    let dir = tempfile::tempdir().unwrap();
    let abort = Abort::default();
    abort.request();
    let error = run_logged("test", Command::new("sleep").arg("600"), &dir.path().join("log"), &abort).unwrap_err();
    assert!(error.to_string().contains("another part failed"), "{error}");
}

#[test]
fn only_a_process_with_the_recorded_command_line_counts_as_running() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, mark) = sleeper(dir.path());
    let pid = child.id();
    // For a moment after the fork it has no command line of its own yet.
    assert!(wait_for(Duration::from_secs(10), || is_running(pid, &mark).then_some(())).is_some());
    assert!(!is_running(pid, "mark-of-another"));

    stop(pid, "mark-of-another").unwrap();
    assert!(is_running(pid, &mark), "a stranger with a reused pid must be left alone");

    stop(pid, &mark).unwrap();
    assert!(!is_running(pid, &mark));
    child.wait().unwrap();
}

#[test]
fn a_tail_is_short_and_names_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fs::write(&log, (0..1000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
    let shown = tail(&log);
    assert!(shown.contains("line 999") && shown.contains("line 970"), "{shown}");
    assert!(!shown.contains("line 969"), "{shown}");
    assert!(shown.contains(&log.display().to_string()));
    assert!(tail(&dir.path().join("missing")).contains("no log"));
}

#[test]
fn waiting_ends_at_the_limit_when_nothing_happens() {
    assert_eq!(wait_for(Duration::from_millis(10), || None::<()>), None);
    assert_eq!(wait_for(Duration::ZERO, || Some(7)), Some(7));
}
