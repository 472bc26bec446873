//! What a user may write as SQL: the gate plans it or refuses it with a reason, on a stack as large as the product's.

#![no_main]

use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use libfuzzer_sys::fuzz_target;
use windrow_processing::validate;
use windrow_protocol::JobSpec;

/// As `windrow` and the worker have.
const STACK_BYTES: usize = 64 * 1024 * 1024;

const SPEC: &str = r#"{"source": {"topic": "t", "values": {"v": "f64", "n": "i64", "b": "bool"}, "tags": ["zone"]},
    "window": {"every": "1h"}, "map": ""}"#;

type Gate = Mutex<(Sender<JobSpec>, Receiver<()>)>;

fn gate() -> &'static Gate {
    static GATE: OnceLock<Gate> = OnceLock::new();
    GATE.get_or_init(|| {
        let ((ask, asked), (answer, answered)) = (channel::<JobSpec>(), channel());
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            for spec in asked {
                for violation in runtime.block_on(validate(&spec)) {
                    assert!(!violation.reason.is_empty() && !violation.message.is_empty());
                }
                answer.send(()).expect("somebody waits");
            }
        };
        thread.spawn(work).expect("a thread");
        Mutex::new((ask, answered))
    })
}

fuzz_target!(|text: &str| {
    let mut spec: JobSpec = serde_json::from_str(SPEC).expect("a job");
    // Map, and after a line of dashes the reduce.
    let (map, reduce) = text.split_once("\n--\n").map_or((text, None), |(map, reduce)| (map, Some(reduce)));
    spec.map = map.to_owned();
    spec.reduce = reduce.map(str::to_owned);
    let gate = gate().lock().expect("the gate");
    gate.0.send(spec).expect("the gate's thread");
    gate.1.recv().expect("an answer");
});
