//! `istiod-lite capture`

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::agent::capture::{
    self,
    rules::{self, Include, Interface, Rules, list},
};

/// Send this pod's TCP through its sidecar: set the rules of its network namespace with iptables.
///
/// Runs as root with the capabilities NET_ADMIN and NET_RAW, in a pod's init container. Looks for iptables-nft-restore and
/// ip6tables-nft-restore, then for those without a variant in the name, then for -legacy. Running it again replaces the rules in
/// one step. IPv6 is left alone, and a line says so, where kernel or pod have none.
#[derive(Args)]
pub(super) struct Arguments {
    /// How traffic is captured
    #[arg(long, value_enum, ignore_case = true, default_value = "REDIRECT")]
    mode: Mode,
    /// Envoy's port for what the workload sends
    #[arg(long, default_value_t = 15001)]
    outbound_port: u16,
    /// Envoy's port for what the workload receives
    #[arg(long, default_value_t = 15006)]
    inbound_port: u16,
    /// Users that the proxy runs as; what they send is not captured
    #[arg(long, value_delimiter = ',', default_value = "1337")]
    uid: Vec<u32>,
    /// Groups that the proxy runs as; what they send is not captured
    #[arg(long, value_delimiter = ',', default_value = "1337")]
    gid: Vec<u32>,
    /// Ports of the workload that are captured; `*`: all, empty: none
    #[arg(long, value_name = "PORTS", default_value = "*", value_parser = |text: &str| Include::parse(text, rules::port))]
    include_inbound_ports: Include<u16>,
    /// Ports of the workload that are not
    #[arg(long, value_name = "PORTS", default_value = "15090,15021,15020", value_parser = ports)]
    exclude_inbound_ports: List<u16>,
    /// Destinations that are captured; `*`: all, empty: none
    #[arg(long, value_name = "RANGES", default_value = "*", value_parser = |text: &str| Include::parse(text, rules::range))]
    include_outbound_ranges: Include<IpNet>,
    /// Destinations that are not
    #[arg(long, value_name = "RANGES", default_value = "", value_parser = ranges)]
    exclude_outbound_ranges: List<IpNet>,
    /// Destination ports that are captured whatever the ranges say
    #[arg(long, value_name = "PORTS", default_value = "", value_parser = ports)]
    include_outbound_ports: List<u16>,
    /// Destination ports that are not captured
    #[arg(long, value_name = "PORTS", default_value = "", value_parser = ports)]
    exclude_outbound_ports: List<u16>,
    /// Interfaces whose traffic is left alone; a final `+` stands for any rest of the name
    #[arg(long, value_name = "NAMES", default_value = "", value_parser = interfaces)]
    exclude_interfaces: List<Interface>,
    /// Print the rules and change nothing
    #[arg(long, conflicts_with = "remove")]
    dry_run: bool,
    /// Take the rules away
    #[arg(long)]
    remove: bool,
}

/// A list in one argument; clap would take a bare `Vec` for a repeated one.
#[derive(Clone)]
struct List<T>(Vec<T>);

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Mode {
    /// The destination of a captured connection is rewritten; Envoy asks the kernel for the original one
    Redirect,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let Mode::Redirect = arguments.mode;
    let remove = arguments.remove;
    let dry_run = arguments.dry_run;
    let rules = rules_of(arguments);
    if dry_run {
        print!("{}", capture::preview(&rules));
        return ExitCode::SUCCESS;
    }
    match if remove { capture::remove() } else { capture::apply(&rules) } {
        Ok(report) => {
            report.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("istiod-lite capture: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rules_of(arguments: Arguments) -> Rules {
    Rules {
        outbound_port: arguments.outbound_port,
        inbound_port: arguments.inbound_port,
        users: arguments.uid,
        groups: arguments.gid,
        inbound_ports: arguments.include_inbound_ports,
        inbound_ports_excluded: arguments.exclude_inbound_ports.0,
        outbound_ranges: arguments.include_outbound_ranges,
        outbound_ranges_excluded: arguments.exclude_outbound_ranges.0,
        outbound_ports: arguments.include_outbound_ports.0,
        outbound_ports_excluded: arguments.exclude_outbound_ports.0,
        interfaces_excluded: arguments.exclude_interfaces.0,
    }
}

fn ports(text: &str) -> Result<List<u16>, String> {
    list(text, rules::port).map(List)
}

fn ranges(text: &str) -> Result<List<IpNet>, String> {
    list(text, rules::range).map(List)
}

fn interfaces(text: &str) -> Result<List<Interface>, String> {
    list(text, str::parse).map(List)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &[&str]) -> Result<Rules, clap::Error> {
        Line::try_parse_from([&["capture"], line].concat()).map(|line| rules_of(line.arguments))
    }

    #[test]
    fn the_flags_that_the_injector_writes() {
        let written = "--mode REDIRECT --outbound-port 15001 --inbound-port 15006 --uid 1337 --gid 1337 --include-inbound-ports * \
                       --exclude-inbound-ports 15090,15021,15020 --include-outbound-ranges *";
        let empty =
            ["--exclude-outbound-ranges", "", "--include-outbound-ports", "", "--exclude-outbound-ports", "", "--exclude-interfaces", ""];
        let arguments: Vec<&str> = written.split_whitespace().chain(empty).collect();
        let (flags, usual) = (parse(&arguments).unwrap(), parse(&[]).unwrap());
        assert_eq!(format!("{flags:?}"), format!("{usual:?}"));
        assert_eq!(flags.inbound_ports_excluded, [15090, 15021, 15020]);
        assert_eq!((flags.inbound_ports, flags.outbound_ports), (Include::All, Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (flag, value, word) in [
            ("--mode", "TPROXY", "possible values: REDIRECT"),
            ("--include-inbound-ports", "80,http", "\"http\""),
            ("--exclude-outbound-ranges", "10.0.0.0/99", "10.0.0.0/99"),
            ("--exclude-interfaces", "a b", "\"a b\""),
        ] {
            let error = parse(&[flag, value]).err().unwrap().to_string();
            assert!(error.contains(word), "{flag}: {error}");
        }
    }
}
