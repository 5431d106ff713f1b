//! `istiod-lite ca inspect`

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    identity::{
        ca::{self, REVOCATION_FILE, SigningCa},
        certificate::Certificate,
    },
    peer_text::escaped,
    system_error::explain,
};

/// Show certificates, and whether a folder is one that the control plane accepts. Exit status 1: there are problems, of which one is
/// that something ends too soon.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// CA folders, or PEM files with certificates
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A certificate, or a list of revoked ones, that ends within so many days is a problem: a folder is looked at long before
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    min_days: u32,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let soon = now.checked_add(SignedDuration::from_hours(24 * i64::from(arguments.min_days)))?;
    let mut problems = Vec::new();
    for path in &arguments.paths {
        if path.is_dir() {
            problems.extend(inspect_folder(path, now, soon)?);
        } else {
            problems.extend(inspect_file(path, now, soon)?);
        }
    }
    for problem in &problems {
        println!("problem: {}", escaped(problem));
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn inspect_folder(folder: &Path, now: Timestamp, soon: Timestamp) -> anyhow::Result<Vec<String>> {
    let mut roots = Vec::new();
    for name in ["root-cert.pem", "cert-chain.pem", "ca-cert.pem", "ca.crt", "tls.crt"] {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        match read(&path) {
            Ok(certificates) => {
                show_all(&path, &certificates);
                roots.extend(certificates.into_iter().filter(Certificate::is_self_signed));
            }
            Err(error) => println!("{}", escaped(&format!("{error:#}"))),
        }
    }
    let keys = ca::find_root_keys(folder, &roots)?;
    let mut problems: Vec<String> = keys.iter().map(ToString::to_string).collect();
    match ca::load(folder, now) {
        Ok(signing) => {
            problems.extend(ending(&signing, soon));
            println!(
                "{}: the control plane accepts it; {} chains to {}; certificates can be issued until {}",
                folder.display(),
                signing.certificate().subject,
                signing.root().subject,
                signing.not_after()
            );
        }
        Err(error @ ca::LoadError::RootKey { .. }) if problems.contains(&error.to_string()) => {}
        Err(error) => problems.push(error.to_string()),
    }
    Ok(problems)
}

/// Returns what of a CA ends before `soon`, and what is wrong with its lists of revoked certificates.
fn ending(ca: &SigningCa, soon: Timestamp) -> Vec<String> {
    let certificates = ca.path().iter().chain(ca.roots()).filter(|certificate| soon > certificate.not_after);
    let mut problems: Vec<String> =
        certificates.map(|certificate| format!("{}: expires soon, at {}", certificate.subject, certificate.not_after)).collect();
    problems.extend(ca.unusable_revocation().map(ToString::to_string));
    let lists = ca.revocation().and_then(|lists| lists.not_after()).filter(|end| soon > *end);
    problems.extend(lists.map(|end| format!("{REVOCATION_FILE}: a list ends soon, at {end}")));
    problems
}

fn inspect_file(path: &Path, now: Timestamp, soon: Timestamp) -> anyhow::Result<Vec<String>> {
    let certificates = read(path)?;
    show_all(path, &certificates);
    let mut problems = Vec::new();
    for (index, certificate) in certificates.iter().enumerate() {
        let subject = &certificate.subject;
        let place = format!("{}: certificate {} ({subject})", path.display(), index + 1);
        if now > certificate.not_after {
            problems.push(format!("{place}: expired at {}", certificate.not_after));
        } else if soon > certificate.not_after {
            problems.push(format!("{place}: expires soon, at {}", certificate.not_after));
        }
        if now < certificate.not_before {
            problems.push(format!("{place}: not valid before {}", certificate.not_before));
        }
        if let Some(constraints) = &certificate.name_constraints {
            problems.push(format!("{place}: name constraints ({constraints}) make many verifiers refuse SPIFFE certificates"));
        }
        let next = certificates.get(index + 1).filter(|_| !certificate.is_self_signed());
        if next.is_some_and(|issuer| !certificate.is_issued_by(issuer)) {
            problems.push(format!("{place}: is not issued by the certificate that follows it"));
        }
    }
    Ok(problems)
}

fn read(path: &Path) -> anyhow::Result<Vec<Certificate>> {
    let text = fs::read_to_string(path).map_err(|error| anyhow::anyhow!("{}: {}", path.display(), explain(&error)))?;
    Certificate::all_from_pem(&text).map_err(|error| anyhow::anyhow!("{} {error}", path.display()))
}

fn show_all(path: &Path, certificates: &[Certificate]) {
    for (index, certificate) in certificates.iter().enumerate() {
        println!("{} [{}]", path.display(), index + 1);
        show(certificate);
    }
}

fn show(certificate: &Certificate) {
    let line = |label: &str, value: &str| {
        if !value.is_empty() {
            println!("  {label:<12} {}", escaped(value));
        }
    };
    line("subject", &certificate.subject);
    line("issuer", if certificate.is_self_signed() { "itself" } else { &certificate.issuer });
    line("serial", &certificate.serial);
    line("valid", &format!("{} to {}", certificate.not_before, certificate.not_after));
    line("key", &certificate.key_type);
    line("CA", &authority(certificate));
    line("constraints", certificate.name_constraints.as_deref().unwrap_or_default());
    line("URI", &certificate.uris.join(", "));
    line("DNS", &certificate.dns_names.join(", "));
    line("IP", &certificate.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
}

fn authority(certificate: &Certificate) -> String {
    match (certificate.is_ca, certificate.signs_certificates, certificate.path_length) {
        (false, ..) => "no".into(),
        (true, false, _) => "yes, but its key usage lacks keyCertSign".into(),
        (true, true, None) => "yes, any path length".into(),
        (true, true, Some(length)) => format!("yes, path length {length}"),
    }
}
