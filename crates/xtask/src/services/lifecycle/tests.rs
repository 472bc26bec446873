use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::process::is_running;

/// Waits until a recorded process is gone.
fn is_gone(running: &Running) -> bool {
    wait_for(Duration::from_secs(5), || (!is_running(running.pid, &running.mark)).then_some(())).is_some()
}

/// A server that is a shell script: it answers when its file `ready` is there, or ends at once.
struct Script(&'static str);

impl Service for Script {
    fn name(&self) -> &'static str {
        "script"
    }
    fn version(&self) -> &'static str {
        "1"
    }
    fn install_cost(&self) -> &'static str {
        "nothing"
    }
    fn install_tools(&self) -> &'static [Tool] {
        &[]
    }
    fn ports(&self) -> (usize, Range<u16>) {
        (1, 28_000..28_500)
    }
    fn ready_limit(&self) -> Duration {
        Duration::from_secs(10)
    }
    fn install(&self, work: &Work<'_>) -> Result<()> {
        fs::write(work.dir.join("installed"), "")?;
        if self.0 == "no-install" {
            return work.run(Command::new("sh").args(["-c", "echo no disk; exit 3"]));
        }
        Ok(())
    }
    fn command(&self, site: &Site<'_>) -> Result<Command> {
        let mut sh = Command::new("sh");
        sh.args(["-c", self.0, &site.work.dir.to_string_lossy()]);
        Ok(sh)
    }
    fn probe(&self, _: &[u16]) -> Result<()> {
        Ok(())
    }
    fn variables(&self, _home: &Path, ports: &[u16]) -> Vec<(&'static str, String)> {
        vec![("SCRIPT", ports[0].to_string())]
    }
}

fn cache() -> (tempfile::TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path().to_path_buf()).unwrap();
    (dir, cache)
}

#[test]
fn a_service_is_started_once_and_stopped_by_its_session() {
    let (_dir, cache) = cache();
    let services: [&'static dyn Service; 1] = [&Script("trap 'exit 0' TERM; while :; do sleep 0.05; done")];
    let session = Session::start(&cache, &services).unwrap();
    let running = State::read(&cache).unwrap().services["script"].clone();
    assert_eq!(up(&cache, &services, Stay::No).unwrap(), Vec::<&str>::new(), "it runs already");
    drop(session);
    assert!(is_gone(&running));
    assert_eq!(State::read(&cache).unwrap().services.len(), 0);
}

#[test]
fn services_that_somebody_wants_to_stay_outlive_a_session() {
    let (_dir, cache) = cache();
    let services: [&'static dyn Service; 1] = [&Script("trap 'exit 0' TERM; while :; do sleep 0.05; done")];
    assert_eq!(up(&cache, &services, Stay::Yes).unwrap(), ["script"]);
    drop(Session::start(&cache, &services).unwrap());
    let running = State::read(&cache).unwrap().services["script"].clone();
    down(&cache, &services).unwrap();
    assert!(is_gone(&running));
}

#[test]
fn a_failed_installation_is_named_with_its_last_words_and_begun_anew() {
    let (_dir, cache) = cache();
    let error = install(&cache, &[&Script("no-install")], &Abort::default()).unwrap_err().to_string();
    assert!(error.contains("script could not be installed") && error.contains("no disk"), "{error}");
    install(&cache, &[&Script("")], &Abort::default()).unwrap();
    assert!(cache.install_dir("script", "1").join("installed").exists());
}
