//! Generates the messages and services of `proto/windrow/v1`.

fn main() -> std::io::Result<()> {
    let root = "../../proto";
    let files = ["block", "ingest", "jobs"].map(|name| format!("{root}/windrow/v1/{name}.proto"));
    println!("cargo:rerun-if-changed={root}");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or_else(|| std::io::Error::other("no OUT_DIR"))?);
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("windrow.bin"))
        .btree_map(".")
        .compile_protos(&files, &[root.to_owned()])
}
