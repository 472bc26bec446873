//! What commands print: data to stdout in the form that was asked for; hints, warnings and progress to stderr.

use std::io::Write;

use anyhow::Result;
use serde_json::Value;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// One JSON document; one per line from `watch`.
    Json,
    /// The same as YAML.
    Yaml,
    /// Names alone, one a line.
    Name,
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OutputArgs {
    /// How to print data.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Prints a value, its names, or a table of it.
pub fn print(output: Output, value: &Value, names: &[String], table: impl FnOnce() -> String) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(value)?)?,
        Output::Yaml => write!(out, "{}", yaml(value)?)?,
        Output::Name => names.iter().try_for_each(|name| writeln!(out, "{name}"))?,
        Output::Table => match table().trim_end() {
            "" => {}
            text => writeln!(out, "{text}")?,
        },
    }
    Ok(out.flush()?)
}

/// A YAML document that ends with a line break.
pub fn yaml(value: &Value) -> Result<String> {
    let text = serde_saphyr::to_string(value)?;
    Ok(format!("{}\n", text.trim_end()))
}

/// Columns under a header. Nothing at all without rows.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(header.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// The first line of a text, shortened to fit a table.
pub fn brief(text: &str) -> String {
    const MOST: usize = 100;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= MOST && line.len() == text.len() {
        return line.to_owned();
    }
    format!("{}...", line.chars().take(MOST).collect::<String>())
}

/// A count with its noun: `1 window`, `3 windows`, `2 batches`.
pub fn count(n: u64, noun: &str) -> String {
    match (n, noun.strip_suffix('y')) {
        (1, _) => format!("{n} {noun}"),
        (_, Some(stem)) => format!("{n} {stem}ies"),
        _ => format!("{n} {noun}{}", if noun.ends_with("ch") { "es" } else { "s" }),
    }
}

/// A command that can be pasted into the shell that this one was started from.
pub fn command(args: &[&str]) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "windrow".to_owned());
    std::iter::once(program.as_str()).chain(args.iter().copied()).map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_rows_is_nothing_and_lines_end_where_their_text_ends() {
        assert_eq!(table(&["A", "B"], vec![]), "");
        let text = table(&["A", "B"], vec![vec!["long name".into(), String::new()]]);
        assert_eq!(text, "A          B\nlong name");
    }

    #[test]
    fn commands_survive_the_shell() {
        assert_eq!(quoted("/tmp/a-b.c"), "/tmp/a-b.c");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
    }

    #[test]
    fn long_texts_are_cut_to_one_line() {
        assert_eq!(brief("short"), "short");
        assert_eq!(brief("a\nb"), "a...");
        assert_eq!(brief(&"ä".repeat(200)).chars().count(), 103);
    }
}
