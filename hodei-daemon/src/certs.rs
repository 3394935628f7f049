//! `hodei-daemon certs`: creates a certificate authority and certificates for a first setup.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Create a certificate authority, a certificate for this daemon, and one for its clients and agents, as PEM files.
#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    /// Directory of the files, which is created if missing. Existing files are kept; a missing certificate is created
    /// by the existing authority.
    dir: PathBuf,
    /// Add a name or an address by which clients reach the daemon, besides localhost and the name of this machine; may
    /// be repeated.
    #[arg(long, value_name = "NAME|IP")]
    host: Vec<String>,
    /// Make the certificates valid for N days; the authority is valid for ten years.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// Why no certificates were created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertsError {
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{} exists without its key {}: put the key back, or name another directory", ca.display(), key.display())]
    NoKey { ca: PathBuf, key: PathBuf },
    #[error("{} exists, so its names cannot change: delete it to create it with --host", .0.display())]
    Exists(PathBuf),
    #[error("a certificate cannot be created: {0}")]
    Make(#[from] rcgen::Error),
}

/// Creates the missing files. Returns the configuration that uses them.
pub(crate) fn make(args: &CertsArgs) -> Result<String, CertsError> {
    let dir = &args.dir;
    std::fs::create_dir_all(dir).map_err(|error| CertsError::File { path: dir.clone(), error })?;
    let (ca, ca_key) = (dir.join("ca.pem"), dir.join("ca.key"));
    if ca.exists() && !ca_key.exists() {
        return Err(CertsError::NoKey { ca, key: ca_key });
    }
    if !args.host.is_empty() && dir.join("server.pem").exists() {
        return Err(CertsError::Exists(dir.join("server.pem")));
    }
    let issuer = if ca_key.exists() {
        let key = KeyPair::from_pem(&read(&ca_key)?)?;
        let issuer = CertifiedIssuer::self_signed(authority(), key)?;
        if !ca.exists() {
            write(&ca, &issuer.pem(), 0o644)?;
        }
        issuer
    } else {
        let issuer = CertifiedIssuer::self_signed(authority(), KeyPair::generate()?)?;
        write(&ca_key, &issuer.key().serialize_pem(), 0o600)?;
        write(&ca, &issuer.pem(), 0o644)?;
        issuer
    };
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    hosts.extend(std::iter::once(name).chain(args.host.iter().cloned()).filter(|host| !host.is_empty()));
    hosts.dedup();
    let server = leaf(hosts, "hodei-daemon", ExtendedKeyUsagePurpose::ServerAuth, args.days)?;
    let client = leaf(Vec::new(), "hodei client", ExtendedKeyUsagePurpose::ClientAuth, args.days)?;
    for (name, params) in [("server", server), ("client", client)] {
        let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        if cert.exists() && key.exists() {
            continue;
        }
        let pair = KeyPair::generate()?;
        let signed = params.signed_by(&pair, &issuer)?;
        write(&key, &pair.serialize_pem(), 0o600)?;
        write(&cert, &signed.pem(), 0o644)?;
    }
    Ok(usage(dir))
}

fn usage(dir: &Path) -> String {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let dir = dir.display();
    format!(
        "# For the configuration of the daemon; without the last three lines, clients and agents need no certificate.\n\
         tls_cert = \"{dir}/server.pem\"\ntls_key = \"{dir}/server.key\"\ntls_ca = \"{dir}/ca.pem\"\n\
         tls_client_ca = \"{dir}/ca.pem\"\ntls_agent_cert = \"{dir}/client.pem\"\ntls_agent_key = \"{dir}/client.key\"\n\
         # For its clients:\n\
         # HODEI_SERVER=https://HOST:7443 HODEI_CA_FILE={dir}/ca.pem HODEI_CERT_FILE={dir}/client.pem \
         HODEI_KEY_FILE={dir}/client.key\n\
         # Keep {dir}/ca.key where only you can read it.\n"
    )
}

/// Parameters of an authority, valid for ten years.
fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Hodei certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, 3650);
    params
}

/// Parameters of a certificate for one purpose.
fn leaf(
    hosts: Vec<String>,
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
    days: u32,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, days);
    Ok(params)
}

/// Makes a certificate valid for `days` from now, and for the day before, since clocks differ.
#[allow(clippy::disallowed_methods, reason = "a certificate is valid by the time of this machine")]
fn set_validity(params: &mut CertificateParams, days: u32) {
    let (now, day) = (std::time::SystemTime::now(), std::time::Duration::from_secs(24 * 3600));
    params.not_before = (now - day).into();
    params.not_after = (now + day * days).into();
}

fn read(path: &Path) -> Result<String, CertsError> {
    std::fs::read_to_string(path).map_err(|error| CertsError::File { path: path.to_owned(), error })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let file = File::options().write(true).create(true).truncate(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| CertsError::File { path: path.to_owned(), error })
}
