//! Names of hosts, gateways and namespaces as Istio writes them, and what they stand for.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::path::Path;
use crate::config::problem::Problems;

/// Who may use an object: `exportTo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportTo {
    /// `*`, or nothing written.
    pub public: bool,
    /// `.`
    pub private: bool,
    /// The namespaces named.
    pub namespaces: Vec<Arc<str>>,
    /// Nothing is written, and what is here is Istio's default; the mesh may have another.
    pub unsaid: bool,
}

/// The name of a gateway that a VirtualService is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayName {
    /// `mesh`: every pod.
    Mesh,
    /// A Gateway, by namespace and name.
    Gateway(Arc<str>, Arc<str>),
}

impl ExportTo {
    /// This, or the mesh's default where there is one and nothing was written.
    pub fn or<'e>(&'e self, default: Option<&'e Self>) -> &'e Self {
        match default {
            Some(default) if self.unsaid => default,
            Some(_) | None => self,
        }
    }

    /// Whether clients of `client` may use an object of namespace `own`.
    pub fn allows(&self, own: &str, client: &str) -> bool {
        self.public
            || (self.private && own == client)
            || self.namespaces.iter().any(|name| &**name == client)
    }

    /// Checks and reads the field at `path`.
    pub fn read(written: &[String], path: &Path, problems: &mut Problems) -> Self {
        let mut export = Self {
            public: written.is_empty(),
            unsaid: written.is_empty(),
            ..Self::default()
        };
        for (index, name) in written.iter().enumerate() {
            let path = path.index(index);
            if written[..index].contains(name) {
                problems.error(
                    &path,
                    format!("\"{name}\" stands here twice"),
                    "name each namespace once",
                );
            }
            match name.as_str() {
                "*" => export.public = true,
                "." => export.private = true,
                "~" => {}
                _ if is_label(name) => export.namespaces.push(name.as_str().into()),
                _ => problems.error(
                    &path,
                    format!("\"{name}\" is no namespace"),
                    "write a namespace, \".\" for the own one, \"*\" for all, or \"~\" for none",
                ),
            }
        }
        let alone = written.iter().any(|name| name == "*" || name == "~");
        if alone && written.len() > 1 {
            problems.error(
                path,
                "\"*\" and \"~\" cannot stand beside others",
                "leave the others out",
            );
        }
        export
    }
}

impl GatewayName {
    /// Reads `mesh`, `name`, `./name`, `namespace/name`, and the legacy `name.namespace.svc.cluster.local`.
    pub fn read(written: &str, own: &str, path: &Path, problems: &mut Problems) -> Option<Self> {
        if written == "mesh" {
            return Some(Self::Mesh);
        }
        let (namespace, name) = match written.split_once('/') {
            Some((".", name)) => (own, name),
            Some((namespace, name)) => (namespace, name),
            None => match written.split_once('.') {
                Some((name, rest)) => {
                    let namespace = rest.split('.').next().unwrap_or_default();
                    problems.warning(
                        path,
                        format!("\"{written}\" is the old way to name a gateway"),
                        format!("write \"{namespace}/{name}\""),
                    );
                    (namespace, name)
                }
                None => (own, written),
            },
        };
        if !is_label(namespace) || !is_subdomain(name) {
            problems.error(
                path,
                format!("\"{written}\" is no name of a gateway"),
                "write \"mesh\", \"name\", or \"namespace/name\"",
            );
            return None;
        }
        Some(Self::Gateway(namespace.into(), name.into()))
    }
}

/// A host as written in an object of `namespace`, fully qualified: a name without any dot is a Service of that
/// namespace, everything else stands as it is. Lower case.
pub fn qualify(host: &str, namespace: &str, domain: &str) -> Arc<str> {
    let host = host.to_ascii_lowercase();
    if host.contains('.') || host.contains('*') || host.parse::<IpAddr>().is_ok() {
        host.into()
    } else {
        service_host(&host, namespace, domain)
    }
}

/// The fully qualified name of a Service.
pub fn service_host(name: &str, namespace: &str, domain: &str) -> Arc<str> {
    format!("{name}.{namespace}.svc.{domain}").into()
}

/// Whether `host` may stand in `hosts`: a name, `*`, `*.name`, or an IP address.
pub fn is_host(host: &str) -> bool {
    host == "*"
        || host.parse::<IpAddr>().is_ok()
        || is_domain(host.strip_prefix("*.").unwrap_or(host))
}

/// Whether `text` is a DNS label, in any case: Istio takes capitals in the names of subsets too.
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether `text` may name a label of an object: `name`, or `domain/name`.
pub fn is_label_key(text: &str) -> bool {
    let (domain, name) = match text.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, text),
    };
    domain.is_none_or(|domain| domain.len() <= 253 && is_domain(domain))
        && !name.is_empty()
        && is_label_value(name)
}

/// Whether `text` may be the value of a label: empty, or letters, digits, `-`, `_` and `.` between letters or digits.
pub fn is_label_value(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().copied().all(inner)
        && edge(bytes.first())
        && edge(bytes.last())
}

/// Whether host `wide` covers host `narrow`: they are equal, or `wide` is `*`, or `*.x` and `narrow` ends in `.x`.
pub fn covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_prefix('*') {
        Some(suffix) => narrow.strip_prefix('*').unwrap_or(narrow).ends_with(suffix) || wide == "*",
        None => wide == narrow,
    }
}

/// What two hosts have in common: the narrower one, where one covers the other.
pub fn intersection<'h>(a: &'h str, b: &'h str) -> Option<&'h str> {
    if covers(a, b) {
        Some(b)
    } else {
        covers(b, a).then_some(a)
    }
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// As `is_subdomain`, but a last label of digits alone would be the end of an IPv4 address, which this then is not.
fn is_domain(text: &str) -> bool {
    let (_, last) = text.rsplit_once('.').unwrap_or(("", "a"));
    is_subdomain(text) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_dot_is_a_service_of_the_same_namespace() {
        let cases = [
            ("reviews", "reviews.prod.svc.cluster.local"),
            ("Reviews", "reviews.prod.svc.cluster.local"),
            ("reviews.prod", "reviews.prod"),
            ("*", "*"),
            ("*.foo.com", "*.foo.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
        ];
        for (written, expected) in cases {
            assert_eq!(&*qualify(written, "prod", "cluster.local"), expected);
        }
    }

    #[test]
    fn hosts_are_names_wildcards_and_addresses() {
        for good in [
            "a", "a.b", "*", "*.a.com", "10.0.0.1", "fd00::1", "A.com", "a-b.c", "1a.com",
        ] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "", "a*.com", "*a.com", "*.*.com", "-a.com", "a..b", "a_b.com", "a.com:80", "http://a",
            "1.2.3",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn the_narrower_of_two_hosts_is_what_they_share() {
        let cases = [
            ("*.a.com", "x.a.com", Some("x.a.com")),
            ("x.a.com", "*.a.com", Some("x.a.com")),
            ("x.a.com", "*", Some("x.a.com")),
            ("*", "*", Some("*")),
            ("*", "*.a.com", Some("*.a.com")),
            ("*.a.com", "*.b.a.com", Some("*.b.a.com")),
            ("*.a.com", "a.com", None),
            ("*.a.com", "xa.com", None),
            ("x.a.com", "y.a.com", None),
        ];
        for (a, b, expected) in cases {
            assert_eq!(intersection(a, b), expected, "{a} and {b}");
        }
    }

    #[test]
    fn gateways_have_four_spellings() {
        let cases = [
            ("mesh", Some(GatewayName::Mesh), 0),
            (
                "gw",
                Some(GatewayName::Gateway("own".into(), "gw".into())),
                0,
            ),
            (
                "./gw",
                Some(GatewayName::Gateway("own".into(), "gw".into())),
                0,
            ),
            (
                "ns/gw",
                Some(GatewayName::Gateway("ns".into(), "gw".into())),
                0,
            ),
            (
                "gw.ns.svc.cluster.local",
                Some(GatewayName::Gateway("ns".into(), "gw".into())),
                1,
            ),
            ("a/b/c", None, 1),
            ("", None, 1),
        ];
        for (written, expected, complaints) in cases {
            let mut problems = Problems::default();
            let name = GatewayName::read(written, "own", &Path::root(), &mut problems);
            assert_eq!((name, problems.len()), (expected, complaints), "{written}");
        }
    }
}
