//! The result as a Markdown table.

/// One measured path.
#[derive(Debug)]
pub struct Line {
    pub path: &'static str,
    /// What exactly was run.
    pub what: String,
    pub measured: String,
    /// What it must reach, and where it is going.
    pub floor_and_goal: &'static str,
    /// Share of the roofline measured in the same run, and of what it consists.
    pub roofline: String,
}

/// All lines, ready for a README.
pub fn markdown(lines: &[Line]) -> String {
    let mut text =
        String::from("| path | what was run | measured | floor -> goal | roofline |\n|---|---|---|---|---|\n");
    for line in lines {
        let Line { path, what, measured, floor_and_goal, roofline } = line;
        text += &format!("| `{path}` | {what} | {measured} | {floor_and_goal} | {roofline} |\n");
    }
    text
}

/// Readings per CPU-second, in millions.
pub fn millions(rate: f64) -> String {
    format!("{:.2} M/s", rate / 1e6)
}

pub fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}
