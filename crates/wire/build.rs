//! Generates the messages and services of `proto/windrow/v1`, and the ingest server over messages that are not decoded.

fn main() -> std::io::Result<()> {
    let root = "../../proto";
    let files = ["block", "ingest", "jobs"].map(|name| format!("{root}/windrow/v1/{name}.proto"));
    println!("cargo:rerun-if-changed={root}");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or_else(|| std::io::Error::other("no OUT_DIR"))?);
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("windrow.bin"))
        .btree_map(".")
        .compile_protos(&files, &[root.to_owned()])?;
    let raw = out.join("raw");
    std::fs::create_dir_all(&raw)?;
    let mut server = tonic_prost_build::configure()
        .out_dir(raw)
        .build_client(false)
        .extern_path(".windrow.v1.PublishRequest", "crate::ingest::RawRequest");
    for message in ["PublishResponse", "PublishStreamResponse", "Refusal", "Reading", "Field"] {
        server = server.extern_path(format!(".windrow.v1.{message}"), format!("crate::v1::{message}"));
    }
    server.compile_protos(&files[1..2], &[root.to_owned()])
}
