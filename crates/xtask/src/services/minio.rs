//! MinIO, the S3 server that tests run on: of the servers compared it alone kept put-if-absent under races.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::etcd::{LEAN, go};
use super::{Service, Site, Work, http};
use crate::tools::Tool;

/// A MinIO server on one folder, with the bucket that tests use.
pub struct Minio;

const ACCESS_KEY: &str = "windrow";
/// Not a secret: the server listens on loopback and holds what tests write.
const SECRET_KEY: &str = "windrow-secret";
const BUCKET: &str = "windrow";

impl Service for Minio {
    fn name(&self) -> &'static str {
        "minio"
    }

    fn version(&self) -> &'static str {
        "0.0.0-20260212201848-7aac2a2c5b7c"
    }

    fn install_cost(&self) -> &'static str {
        "built with Go, 2 to 6 minutes of two cores"
    }

    fn install_tools(&self) -> &'static [Tool] {
        &[Tool::Go]
    }

    fn ports(&self) -> (usize, Range<u16>) {
        (1, 22_000..23_000)
    }

    fn ready_limit(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn install(&self, work: &Work<'_>) -> Result<()> {
        let module = format!("github.com/minio/minio@v{}", self.version());
        work.run(go().env("GOBIN", work.dir).arg("install").args(LEAN).arg(module))
    }

    fn command(&self, site: &Site<'_>) -> Result<Command> {
        let data = site.work.dir.join("data");
        // A folder below the data folder is a bucket.
        fs::create_dir_all(data.join(BUCKET)).with_context(|| format!("creating a bucket in {}", data.display()))?;
        let mut command = Command::new(site.home.join("minio"));
        command.env("MINIO_ROOT_USER", ACCESS_KEY).env("MINIO_ROOT_PASSWORD", SECRET_KEY);
        command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off");
        command.args(["server", "--address", &format!("127.0.0.1:{}", site.ports[0])]).arg(data);
        Ok(command)
    }

    fn probe(&self, ports: &[u16]) -> Result<()> {
        http::expect_ok(ports[0], "/minio/health/live")
    }

    fn variables(&self, home: &Path, ports: &[u16]) -> Vec<(&'static str, String)> {
        vec![
            ("WINDROW_TEST_S3", format!("http://127.0.0.1:{}", ports[0])),
            ("WINDROW_TEST_S3_HOME", home.display().to_string()),
            ("WINDROW_TEST_S3_ACCESS_KEY", ACCESS_KEY.to_owned()),
            ("WINDROW_TEST_S3_SECRET_KEY", SECRET_KEY.to_owned()),
            ("WINDROW_TEST_S3_BUCKET", BUCKET.to_owned()),
        ]
    }
}
