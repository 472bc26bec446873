//! `windrow dev` at rest: how soon it is ready, and what it holds.

use anyhow::Result;

use crate::measure::{median, memory_of};
use crate::process::{Role, free_port};
use crate::table::{Line, megabytes};
use crate::{Options, Path};

pub async fn idle(options: &Options) -> Result<Option<Line>> {
    if !options.wants(Path::Dev) {
        return Ok(None);
    }
    let (mut starts, mut sizes) = (Vec::new(), Vec::new());
    let client = reqwest::Client::new();
    for _ in 0..options.repeats {
        let folder = tempfile::tempdir()?;
        let data = folder.path().display().to_string();
        let (grpc, http) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
        let mut role = Role::start(&["dev", "--data-dir", &data, "--grpc", &grpc, "--http", &http])?;
        starts.push(role.ready(&client, &format!("http://{http}/readyz")).await?.as_secs_f64());
        // Past the first ticks of its roles.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        sizes.push(memory_of(&role.pid().to_string(), "VmRSS")? as f64);
    }
    Ok(Some(Line {
        path: "dev",
        what: "`windrow dev` on an empty folder: start to ready, resident memory a second later".to_owned(),
        measured: format!("{:.2} s / {}", median(starts), megabytes(median(sizes) as u64)),
        floor_and_goal: "2 s / 200 MB -> 0.3 s / 80 MB",
        roofline: String::new(),
    }))
}
