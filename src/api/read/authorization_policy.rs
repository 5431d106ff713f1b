//! Reads an AuthorizationPolicy (contract §6.7).

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use smol_str::SmolStr;

use super::fields::{Fields, Node, Read};
use crate::api::istio::{
    AuthorizationAction, AuthorizationCondition, AuthorizationPolicy, AuthorizationRule, Operation, PolicyTarget, Source, Values,
};

impl Read for AuthorizationPolicy {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            target: PolicyTarget::of(fields),
            action: fields.get("action"),
            provider: fields.with("provider", provider),
            rules: fields.get("rules"),
        })
    }
}

impl Read for AuthorizationAction {
    fn read(node: Node<'_>) -> Option<Self> {
        node.one_of(&[("ALLOW", Self::Allow), ("DENY", Self::Deny), ("AUDIT", Self::Audit), ("CUSTOM", Self::Custom)])
    }
}

impl Read for AuthorizationRule {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            from: alternatives(fields, "from").into_iter().map(|From(source)| source).collect(),
            to: alternatives(fields, "to").into_iter().map(|To(operation)| operation).collect(),
            when: fields.get("when"),
        })
    }
}

impl Read for Source {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let source = Self {
                principals: values(fields, "principals", "notPrincipals"),
                request_principals: values(fields, "requestPrincipals", "notRequestPrincipals"),
                namespaces: values(fields, "namespaces", "notNamespaces"),
                service_accounts: values(fields, "serviceAccounts", "notServiceAccounts"),
                trust_domains: values(fields, "trustDomains", "notTrustDomains"),
                ip_blocks: values(fields, "ipBlocks", "notIpBlocks"),
                remote_ip_blocks: values(fields, "remoteIpBlocks", "notRemoteIpBlocks"),
            };
            if source == Self::default() {
                fields.error("must not be empty: leave `from` out to mean anyone");
            }
            source
        })
    }
}

impl Read for Operation {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let operation = Self {
                hosts: values(fields, "hosts", "notHosts"),
                ports: values(fields, "ports", "notPorts"),
                methods: values(fields, "methods", "notMethods"),
                paths: values(fields, "paths", "notPaths"),
            };
            if operation == Self::default() {
                fields.error("must not be empty: leave `to` out to mean anything");
            }
            operation
        })
    }
}

impl Read for AuthorizationCondition {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { key: fields.get("key"), values: values(fields, "values", "notValues") })
    }
}

fn provider(node: Node<'_>) -> Option<SmolStr> {
    node.message(|fields| fields.get("name"))
}

/// Reads the elements of `from` or `to`. An empty list could be taken for nobody as well as for anyone.
fn alternatives<T: Read>(fields: &Fields<'_>, name: &str) -> Vec<T> {
    let read = fields.with(name, |node| {
        if node.value.as_array().is_some_and(Vec::is_empty) {
            node.error("must not be empty: leave it out to restrict nothing");
        }
        Vec::read(node)
    });
    read.unwrap_or_default()
}

/// Reads a field and the one that negates it.
fn values<T: Read>(fields: &Fields<'_>, name: &'static str, negated: &'static str) -> Values<T> {
    Values { any_of: fields.get(name), none_of: fields.get(negated) }
}

/// `{source: …}`
struct From(Source);

impl Read for From {
    fn read(node: Node<'_>) -> Option<Self> {
        only_field(node, "source").map(Self)
    }
}

/// `{operation: …}`
struct To(Operation);

impl Read for To {
    fn read(node: Node<'_>) -> Option<Self> {
        only_field(node, "operation").map(Self)
    }
}

fn only_field<T: Read>(node: Node<'_>, name: &'static str) -> Option<T> {
    let fields = node.fields()?;
    if !fields.has(name) {
        fields.refuse(name, "is missing");
    }
    let inner = fields.opt(name);
    fields.finish();
    inner
}

/// Reads an address or a network. Of an address without a length all bits count.
impl Read for IpNet {
    fn read(node: Node<'_>) -> Option<Self> {
        let text = SmolStr::read(node)?;
        let read = Self::from_str(&text).ok().or_else(|| IpAddr::from_str(&text).ok().map(Self::from));
        if read.is_none() {
            node.error(format!("must be an IP address or a network such as 10.0.0.0/8, is {text:?}"));
        }
        read
    }
}
