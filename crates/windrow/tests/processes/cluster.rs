//! A cluster of one's own: three brokers, three etcd members and an S3 server, each with a way to it that can be cut.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::deployment::{Services, free_port, variable};
use crate::proxy::Proxy;

const MEMBERS: usize = 3;

/// `BROKER` is for brokers and for tools; roles come by `PROXIED`.
const BROKER: &str = "process.roles=broker,controller
node.id=@ID@
controller.quorum.voters=@VOTERS@
listeners=BROKER://127.0.0.1:@BROKER@,PROXIED://127.0.0.1:@PROXIED@,CONTROLLER://127.0.0.1:@CONTROLLER@
advertised.listeners=BROKER://127.0.0.1:@BROKER@,PROXIED://@PROXY@
listener.security.protocol.map=BROKER:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs=@DATA@
auto.create.topics.enable=false
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
broker.session.timeout.ms=6000
";

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A server; killed when dropped.
pub struct Server {
    command: Box<dyn Fn() -> Command + Send>,
    log: PathBuf,
    child: Option<Child>,
}

impl Server {
    fn new(log: PathBuf, command: impl Fn() -> Command + Send + 'static) -> Self {
        Self { command: Box::new(command), log, child: None }
    }

    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = (self.command)();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The servers, by name: `kafka-0`, `etcd-0`, `s3`; and by the same names the ways to them.
pub struct Cluster {
    pub servers: BTreeMap<String, Server>,
    pub ways: BTreeMap<String, Proxy>,
    pub services: Services,
    /// The etcd members, past their proxies.
    pub etcd: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts all; they need some seconds until they answer, for which roles wait.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            servers: BTreeMap::new(),
            ways: BTreeMap::new(),
            services: Services { kafka: String::new(), etcd: String::new(), s3: String::new(), store: String::new() },
            etcd: Vec::new(),
            _folder: folder,
        };
        let at = cluster._folder.path().to_owned();
        cluster.brokers(&at);
        cluster.etcd(&at);
        cluster.s3(&at);
        for server in cluster.servers.values_mut() {
            server.start();
        }
        for way in cluster.ways.values_mut() {
            way.open().await;
        }
        cluster
    }

    /// A way to a port; its address.
    fn way(&mut self, name: &str, port: u16) -> SocketAddr {
        let listen = loopback(free_port());
        self.ways.insert(name.to_owned(), Proxy::new(listen, loopback(port)));
        listen
    }

    fn brokers(&mut self, at: &Path) {
        let home = PathBuf::from(variable("WINDROW_TEST_KAFKA_HOME")).join("libs/*");
        let controllers = [(); MEMBERS].map(|()| free_port());
        let voters: Vec<String> =
            controllers.iter().enumerate().map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let cluster_id: String = uuid::Uuid::new_v4().simple().to_string().chars().take(21).chain(['A']).collect();
        let mut addresses = Vec::new();
        for (id, controller) in controllers.into_iter().enumerate() {
            let (name, broker, proxied) = (format!("kafka-{id}"), free_port(), free_port());
            let way = self.way(&name, proxied);
            addresses.push(way.to_string());
            let values = [
                ("@ID@", id.to_string()),
                ("@VOTERS@", voters.join(",")),
                ("@BROKER@", broker.to_string()),
                ("@PROXIED@", proxied.to_string()),
                ("@PROXY@", way.to_string()),
                ("@CONTROLLER@", controller.to_string()),
                ("@DATA@", at.join(&name).display().to_string()),
            ];
            let text = values.iter().fold(BROKER.to_owned(), |text, (key, value)| text.replace(key, value));
            let settings = at.join(format!("{name}.properties"));
            fs::write(&settings, text).unwrap();
            let java = move |class: &str, home: &Path| {
                let mut java = Command::new("java");
                java.args(["-Xmx320m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]).arg(home).arg(class);
                java
            };
            let mut format = java("kafka.tools.StorageTool", &home);
            let formatted = format.args(["format", "-t", &cluster_id, "-c"]).arg(&settings).output().unwrap();
            assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
            let home = home.clone();
            let server = Server::new(at.join(format!("{name}.log")), move || {
                let mut broker = java("kafka.Kafka", &home);
                broker.arg(&settings);
                broker
            });
            self.servers.insert(name, server);
        }
        self.services.kafka = addresses.join(",");
    }

    fn etcd(&mut self, at: &Path) {
        let program = PathBuf::from(variable("WINDROW_TEST_ETCD_HOME")).join("etcd");
        let ports = [(); MEMBERS].map(|()| (free_port(), free_port()));
        let members: Vec<String> =
            ports.iter().enumerate().map(|(id, (_, peer))| format!("etcd-{id}=http://127.0.0.1:{peer}")).collect();
        let mut addresses = Vec::new();
        for (id, (client, peer)) in ports.into_iter().enumerate() {
            let name = format!("etcd-{id}");
            addresses.push(format!("http://{}", self.way(&name, client)));
            let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            self.etcd.push(client.clone());
            let (program, members, data) = (program.clone(), members.join(","), at.join(&name));
            let server = Server::new(at.join(format!("{name}.log")), {
                let name = name.clone();
                move || {
                    let mut etcd = Command::new(&program);
                    etcd.args(["--name", &name, "--log-level", "warn", "--data-dir"]).arg(&data);
                    etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                    etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                    etcd.args(["--initial-cluster", &members]);
                    etcd
                }
            });
            self.servers.insert(name, server);
        }
        self.services.etcd = addresses.join(",");
    }

    fn s3(&mut self, at: &Path) {
        let program = PathBuf::from(variable("WINDROW_TEST_S3_HOME")).join("minio");
        let (port, data) = (free_port(), at.join("s3"));
        // A folder below the data folder is a bucket.
        fs::create_dir_all(data.join("long")).unwrap();
        let way = self.way("s3", port);
        (self.services.s3, self.services.store) = (format!("http://{way}"), "s3://long/output".to_owned());
        let server = Server::new(at.join("s3.log"), move || {
            let mut minio = Command::new(&program);
            minio.env("MINIO_ROOT_USER", variable("WINDROW_TEST_S3_ACCESS_KEY"));
            minio.env("MINIO_ROOT_PASSWORD", variable("WINDROW_TEST_S3_SECRET_KEY"));
            minio.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off");
            minio.args(["server", "--address", &loopback(port).to_string()]).arg(&data);
            minio
        });
        self.servers.insert("s3".to_owned(), server);
    }
}
