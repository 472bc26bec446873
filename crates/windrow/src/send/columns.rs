//! Which column is what.

use anyhow::{Context, Result, bail, ensure};

use super::cell::Kind;

/// The least likeness (0 to 1) of a name that is offered instead of a wrong one.
const LIKENESS: f64 = 0.75;

/// One value or tag of the readings.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldColumn {
    /// Its name in the readings.
    pub name: String,
    /// Where its cell is in the record.
    pub at: usize,
    /// Given by the user; else the narrowest that holds everything.
    pub kind: Option<Kind>,
}

/// Columns as the user names them.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub time: Vec<String>,
    pub device: Option<String>,
    pub seq: Option<String>,
    /// `name=column` or `column`; all others if there are none.
    pub values: Vec<String>,
    pub tags: Vec<String>,
    /// `name=type`.
    pub types: Vec<(String, Kind)>,
}

/// Where everything is in a record of `columns`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    /// What to read from each file.
    pub columns: Vec<String>,
    /// Joined with a space between them.
    pub time: Vec<usize>,
    pub device: Option<usize>,
    pub seq: Option<usize>,
    pub fields: Vec<FieldColumn>,
}

/// Splits `a,b,"c, d"`.
pub fn names(text: &str) -> Result<Vec<String>, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(text.as_bytes());
    match reader.records().next() {
        Some(Ok(record)) if record.iter().all(|name| !name.is_empty()) => {
            Ok(record.iter().map(str::to_owned).collect())
        }
        _ => Err("expected names with commas between them; quote one that has a comma itself".to_owned()),
    }
}

impl Mapping {
    /// Finds the wanted columns. `files`: name and columns of each.
    pub fn new(wanted: &Wanted, files: &[(String, Vec<String>)]) -> Result<Self> {
        let mut mapping = Self { columns: vec![], time: vec![], device: None, seq: None, fields: vec![] };
        for column in &wanted.time {
            let at = mapping.in_every_file(column, files)?;
            mapping.time.push(at);
        }
        mapping.device = wanted.device.as_ref().map(|column| mapping.in_every_file(column, files)).transpose()?;
        mapping.seq = wanted.seq.as_ref().map(|column| mapping.in_every_file(column, files)).transpose()?;
        let taken = mapping.columns.clone();
        for item in &wanted.tags {
            mapping.add_field(item, Some(Kind::String), files)?;
        }
        let tags = mapping.columns.clone();
        let mut values = wanted.values.clone();
        if values.is_empty() {
            for column in files.iter().flat_map(|(_, columns)| columns) {
                if !taken.contains(column) && !tags.contains(column) && !values.contains(column) {
                    values.push(column.clone());
                }
            }
        }
        for item in &values {
            mapping.add_field(item, None, files)?;
        }
        for (name, kind) in &wanted.types {
            let field = mapping.fields.iter_mut().find(|field| field.name == *name);
            field.with_context(|| format!("--types: there is no value {name:?}"))?.kind = Some(*kind);
        }
        ensure!(!mapping.fields.is_empty(), "there is no column left for values");
        Ok(mapping)
    }

    fn add_field(&mut self, item: &str, kind: Option<Kind>, files: &[(String, Vec<String>)]) -> Result<()> {
        let is_there = |column: &str| files.iter().any(|(_, columns)| columns.iter().any(|name| name == column));
        // A column may have the sign in its name: the whole is tried first.
        let (name, column) = match item.split_once('=') {
            Some((name, column)) if !is_there(item) => (name.trim(), column.trim()),
            _ => (item, item),
        };
        if !is_there(column) {
            bail!(unknown(column, &files.iter().flat_map(|(_, columns)| columns.clone()).collect::<Vec<_>>()));
        }
        ensure!(self.fields.iter().all(|field| field.name != name), "two columns would be the value {name:?}");
        let at = self.at(column);
        self.fields.push(FieldColumn { name: name.to_owned(), at, kind });
        Ok(())
    }

    fn in_every_file(&mut self, column: &str, files: &[(String, Vec<String>)]) -> Result<usize> {
        for (file, columns) in files {
            if !columns.iter().any(|name| name == column) {
                bail!("{file}: {}", unknown(column, columns));
            }
        }
        Ok(self.at(column))
    }

    fn at(&mut self, column: &str) -> usize {
        self.columns.iter().position(|name| name == column).unwrap_or_else(|| {
            self.columns.push(column.to_owned());
            self.columns.len() - 1
        })
    }
}

fn unknown(column: &str, columns: &[String]) -> String {
    let likeness = |name: &String| strsim::jaro_winkler(&name.to_lowercase(), &column.to_lowercase());
    let nearest = columns.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let meant = nearest.filter(|name| likeness(name) >= LIKENESS);
    let meant = meant.map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default();
    format!("there is no column {column:?}{meant}; there are: {}", columns.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<(String, Vec<String>)> {
        let columns = ["at", "sensor", "CO(GT)", "T", "zone"].map(str::to_owned).to_vec();
        vec![("a.csv".to_owned(), columns)]
    }

    fn wanted(values: &[&str]) -> Wanted {
        Wanted {
            time: vec!["at".to_owned()],
            device: Some("sensor".to_owned()),
            tags: vec!["zone".to_owned()],
            values: values.iter().map(|value| (*value).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn fields(wanted: &Wanted) -> Vec<(String, String)> {
        let mapping = Mapping::new(wanted, &files()).unwrap();
        mapping.fields.iter().map(|field| (field.name.clone(), mapping.columns[field.at].clone())).collect()
    }

    fn pair(name: &str, column: &str) -> (String, String) {
        (name.to_owned(), column.to_owned())
    }

    #[test]
    fn without_names_every_other_column_is_a_value() {
        assert_eq!(fields(&wanted(&[])), [pair("zone", "zone"), pair("CO(GT)", "CO(GT)"), pair("T", "T")]);
    }

    #[test]
    fn a_value_may_have_another_name_than_its_column() {
        assert_eq!(fields(&wanted(&["co=CO(GT)", "T"])), [pair("zone", "zone"), pair("co", "CO(GT)"), pair("T", "T")]);
        assert_eq!(names("co=CO(GT),\"a, b\"").unwrap(), ["co=CO(GT)", "a, b"]);
        assert!(names("a,,b").is_err());
    }

    #[test]
    fn an_unknown_column_is_answered_with_the_one_that_was_meant_and_all_there_are() {
        let mut wrong = wanted(&[]);
        wrong.time = vec!["att".to_owned()];
        let error = Mapping::new(&wrong, &files()).unwrap_err().to_string();
        assert_eq!(
            error,
            r#"a.csv: there is no column "att" (did you mean "at"?); there are: at, sensor, CO(GT), T, zone"#
        );
        let error = Mapping::new(&wanted(&["pressure"]), &files()).unwrap_err().to_string();
        assert!(error.starts_with(r#"there is no column "pressure"; there are"#), "{error}");
    }

    #[test]
    fn two_columns_never_share_a_name_and_types_are_for_values_that_are_there() {
        let error = Mapping::new(&wanted(&["T", "T=CO(GT)"]), &files()).unwrap_err().to_string();
        assert!(error.contains("two columns"), "{error}");
        let wrong = Wanted { types: vec![("X".to_owned(), Kind::F64)], ..wanted(&[]) };
        assert!(Mapping::new(&wrong, &files()).unwrap_err().to_string().contains("--types"));
    }
}
