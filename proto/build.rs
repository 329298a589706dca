//! Compiles the .proto files with protox, so that no protoc needs to be installed.

use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["semlink/v1/semlink.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("semlink.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        // Symbols and images travel without a copy per float.
        .bytes(".semlink.v1")
        .codec_path("crate::LeanCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
