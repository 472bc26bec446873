//! A Kafka broker in KRaft mode, from the jars of Maven Central.

mod metadata;

use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Service, Site, Work};
use crate::tools::Tool;

/// One broker that is its own controller.
pub struct Kafka;

const POM: &str = include_str!("../../services/kafka/pom.xml.in");
const PROPERTIES: &str = include_str!("../../services/kafka/server.properties.in");
/// Pinned like the jars: an unversioned plugin is whatever the machine's Maven defaults to.
const COPY_DEPENDENCIES: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

impl Service for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn version(&self) -> &'static str {
        "4.3.1"
    }

    fn install_cost(&self) -> &'static str {
        "54 MB from Maven Central, seconds"
    }

    fn install_tools(&self) -> &'static [Tool] {
        &[Tool::Java, Tool::Maven]
    }

    fn run_tools(&self) -> &'static [Tool] {
        &[Tool::Java]
    }

    fn ports(&self) -> (usize, Range<u16>) {
        (4, 20_000..21_000)
    }

    fn ready_limit(&self) -> Duration {
        Duration::from_secs(120)
    }

    fn install(&self, work: &Work<'_>) -> Result<()> {
        fs::write(work.dir.join("pom.xml"), POM.replace("@VERSION@", self.version())).context("writing pom.xml")?;
        let mut maven = Command::new("mvn");
        maven.args(["-B", "-ntp", COPY_DEPENDENCIES, "-DoutputDirectory=libs", "-DincludeScope=runtime"]);
        work.run(&mut maven)
    }

    fn command(&self, site: &Site<'_>) -> Result<Command> {
        let &[broker, controller, proxied, proxy] = site.ports else { bail!("Kafka needs four ports") };
        let settings = site.work.dir.join("server.properties");
        let text = PROPERTIES
            .replace("@BROKER_PORT@", &broker.to_string())
            .replace("@CONTROLLER_PORT@", &controller.to_string())
            .replace("@PROXIED_PORT@", &proxied.to_string())
            .replace("@PROXY_PORT@", &proxy.to_string())
            .replace("@DATA@", &site.work.dir.join("data").to_string_lossy());
        fs::write(&settings, text).with_context(|| format!("writing {}", settings.display()))?;
        let mut format = java(site.home, "128m");
        format.args(["kafka.tools.StorageTool", "format", "-t", &new_cluster_id()?, "-c"]).arg(&settings);
        site.work.run(&mut format).context("formatting the storage of the broker")?;
        let mut server = java(site.home, "384m");
        server.arg("kafka.Kafka").arg(&settings);
        Ok(server)
    }

    fn probe(&self, ports: &[u16]) -> Result<()> {
        metadata::expect_broker(ports[0])
    }

    fn variables(&self, home: &Path, ports: &[u16]) -> Vec<(&'static str, String)> {
        let at = |port: usize| format!("127.0.0.1:{}", ports[port]);
        vec![
            ("WINDROW_TEST_KAFKA", at(0)),
            ("WINDROW_TEST_KAFKA_HOME", home.display().to_string()),
            ("WINDROW_TEST_KAFKA_PROXIED", at(2)),
            // Where a test's proxy must listen.
            ("WINDROW_TEST_KAFKA_PROXY", at(3)),
        ]
    }
}

fn java(home: &Path, heap: &str) -> Command {
    let mut classpath = OsString::from(home.join("libs"));
    classpath.push("/*");
    let mut java = Command::new("java");
    java.arg(format!("-Xmx{heap}"));
    java.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]);
    java.arg("-cp").arg(classpath);
    java
}

/// A new id for each run, so that a client that outlived the last broker notices. Kafka wants 16 bytes as 22 digits of
/// URL-safe base64; any hexadecimal digits are such, and the `A` keeps the unused last bits zero.
fn new_cluster_id() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("reading a random id from the kernel")?;
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).take(21).collect();
    Ok(format!("{digits}A"))
}
