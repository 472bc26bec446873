//! The roles as processes over a real Kafka, etcd and S3 server: whoever is killed, and whichever service is away, every
//! acknowledged reading is in exactly one window's result. `cargo xtask test` starts the services.

mod behaviours;
mod cluster;
mod deployment;
mod foreign;
mod kills;
mod long;
mod outages;
mod proxy;
mod reads;
mod volume;
