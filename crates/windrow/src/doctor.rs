//! `windrow doctor`: the suites that windrow's own adapters pass, against a user's Kafka, etcd and object store. "Kafka
//! compatible" and "S3 compatible" are claims; this says what of them holds.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use serde_json::{Value, json};
use windrow_etcd::{EtcdSettings, EtcdStore};
use windrow_ports::conformance::{Property, log, meta};
use windrow_ports::meta::{Op, Txn};
use windrow_ports::{Log, MetaStore};
use windrow_protocol::TopicName;
use windrow_storage::Store;

use crate::connect::{KafkaFrom, s3};
use crate::output::{self, OutputArgs};
use crate::progress::Progress;

/// How long one property may take.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    kafka: KafkaFrom,
    /// URLs of etcd's members, with commas.
    #[arg(long, env = "WINDROW_ETCD", value_delimiter = ',')]
    etcd: Vec<String>,
    /// Root of the output: `s3://bucket/prefix` or `file:///folder`.
    #[arg(long, env = "WINDROW_STORE")]
    store: Option<String>,
    /// URL of an S3 service that is not AWS. Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long, env = "WINDROW_S3_ENDPOINT")]
    s3_endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1")]
    s3_region: String,
    /// Check too what others on the same services may notice: compacts etcd's history.
    #[arg(long)]
    disturb: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// What became of one check.
struct Checked {
    part: &'static str,
    property: String,
    /// `None`: it was left out.
    broken: Option<Result<(), String>>,
    seconds: f64,
}

impl Checked {
    fn result(&self) -> &'static str {
        match &self.broken {
            None => "skipped",
            Some(Ok(())) => "holds",
            Some(Err(_)) => "BROKEN",
        }
    }

    fn note(&self) -> &str {
        match &self.broken {
            None => "others may notice it; --disturb checks it",
            Some(Ok(())) => "",
            Some(Err(what)) => what,
        }
    }
}

pub async fn run(args: Args) -> Result<()> {
    let mut doctor = Doctor { disturb: args.disturb, checked: Vec::new(), progress: Progress::spinner("examining") };
    // What is found broken is told in the table.
    std::panic::set_hook(Box::new(|_| {}));
    let id = uuid::Uuid::new_v4().simple().to_string();
    let began = Instant::now();
    match args.kafka.reach("windrow-doctor").await {
        Ok(Some(kafka)) => doctor.log(kafka, &id).await,
        Ok(None) => {}
        Err(error) => doctor.unreachable("kafka", &error, began),
    }
    let began = Instant::now();
    if !args.etcd.is_empty() {
        match EtcdStore::connect(&EtcdSettings::new(args.etcd.clone())).await {
            Ok(etcd) => doctor.meta(Arc::new(etcd), &id).await?,
            Err(error) => doctor.unreachable("etcd", &error, began),
        }
    }
    if let Some(url) = &args.store {
        let settings = s3(args.s3_endpoint.clone(), Some(args.s3_region.clone()));
        doctor.store(&Store::open(url, &settings)?).await;
    }
    let Doctor { checked, progress, .. } = doctor;
    drop(progress);
    ensure!(!checked.is_empty(), "nothing to examine: give --kafka, --etcd or --store");
    let value = |c: &Checked| json!({"part": c.part, "property": c.property, "result": c.result(), "note": c.note(), "seconds": c.seconds});
    let row = |c: &Checked| vec![c.part.to_owned(), c.property.clone(), c.result().to_owned(), output::brief(c.note())];
    let names: Vec<String> = checked.iter().map(|checked| checked.property.clone()).collect();
    output::print(args.output.output, &Value::Array(checked.iter().map(value).collect()), &names, || {
        output::table(&["PART", "PROPERTY", "RESULT", "NOTE"], checked.iter().map(row).collect())
    })?;
    let broken = checked.iter().filter(|checked| matches!(checked.broken, Some(Err(_)))).count();
    ensure!(broken == 0, "windrow can't rely on {}", output::count(broken as u64, "property"));
    Ok(())
}

struct Doctor {
    disturb: bool,
    checked: Vec<Checked>,
    progress: Progress,
}

impl Doctor {
    async fn log(&mut self, kafka: Arc<dyn Log>, id: &str) {
        for (i, property) in log::properties().iter().enumerate() {
            let topic = format!("windrow-doctor-{id}-{i}");
            self.check("kafka", property, kafka.clone(), topic.clone()).await;
            if let Ok(topic) = TopicName::new(topic) {
                // It may be gone, or never have come.
                let _ = kafka.delete_topic(&topic).await;
            }
        }
    }

    async fn meta(&mut self, etcd: Arc<dyn MetaStore>, id: &str) -> Result<()> {
        let prefix = format!("/windrow-doctor-{id}/");
        for property in meta::properties() {
            self.check("etcd", &property, etcd.clone(), format!("{prefix}{}/", property.name)).await;
        }
        let then = vec![Op::DeletePrefix { prefix }];
        etcd.txn(Txn { when: vec![], then }).await.context("clearing up in etcd")?;
        Ok(())
    }

    async fn store(&mut self, store: &Store) {
        let broken = |result: Result<(), windrow_storage::StoreError>| Some(result.map_err(|error| error.to_string()));
        let began = Instant::now();
        let probed = broken(store.probe().await);
        let only_one = "of several clients exactly one creates an object".to_owned();
        self.note("store", only_one, probed, began);
        let began = Instant::now();
        let seen = broken(store.probe_visibility().await);
        self.note("store", "what was written is read, listed, copied and deleted at once".to_owned(), seen, began);
    }

    /// The others are examined all the same.
    fn unreachable(&mut self, part: &'static str, error: &dyn std::fmt::Display, began: Instant) {
        self.note(part, "it answers".to_owned(), Some(Err(error.to_string())), began);
    }

    async fn check<S: ?Sized>(&mut self, part: &'static str, property: &Property<S>, service: Arc<S>, place: String) {
        let began = Instant::now();
        self.progress.say(format!("{part}: {}", property.sentence()));
        if property.disturbs && !self.disturb {
            return self.note(part, property.sentence(), None, began);
        }
        let check = AssertUnwindSafe(property.check(service, place)).catch_unwind();
        let broken = match tokio::time::timeout(PATIENCE, check).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(panic)) => Err(said(&*panic)),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        self.note(part, property.sentence(), Some(broken), began);
    }

    fn note(&mut self, part: &'static str, property: String, broken: Option<Result<(), String>>, began: Instant) {
        self.checked.push(Checked { part, property, broken, seconds: began.elapsed().as_secs_f64() });
    }
}

/// What a suite says of a property that does not hold.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it does not hold").to_owned()
}
