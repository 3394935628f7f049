//! Compiles the .proto files with protox, so that no protoc needs to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["access", "job", "job_execution", "log_stream", "scheduler", "secret", "worker_agent"]
        .map(|name| format!("hodei/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["."])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    // These messages hold secrets, tokens or credentials: their `Debug` is written by hand and does not show them.
    let secret = ["Secret", "PutSecretRequest", "CreateTokenResponse", "RegisterRequest", "RegisterResponse"];
    config.skip_debug(secret.map(|message| format!(".hodei.v1.{message}")));
    #[cfg(feature = "grpc")]
    {
        let path = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("hodei.v1.bin");
        std::fs::write(path, prost::Message::encode_to_vec(&descriptors))?;
        config.service_generator(tonic_prost_build::configure().service_generator());
    }
    config.compile_fds(descriptors)?;
    Ok(())
}
