//! The rules that a manifest can break, by the codes that Istio's users know.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::config::problem::Severity;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $code:ident = $id:literal $name:literal $level:ident,)+) => {
        /// A rule. `IST` codes and names are those of `istioctl analyze`; `MESH` codes are this program's own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $doc])+ $code,)+
        }

        impl Code {
            /// Every rule, in the order of the codes.
            pub const ALL: &[Self] = &[$(Self::$code,)+];

            /// Such as `IST0101`.
            pub fn id(self) -> &'static str {
                match self {
                    $(Self::$code => $id,)+
                }
            }

            /// Such as `ReferencedResourceNotFound`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$code => $name,)+
                }
            }

            /// How serious `istioctl analyze` takes it to be. Rules that one can break in several ways may be told of with
            /// another severity.
            pub fn level(self) -> Severity {
                match self {
                    $(Self::$code => Severity::$level,)+
                }
            }

            fn documentation(self) -> &'static str {
                match self {
                    $(Self::$code => concat!($($doc),+),)+
                }
            }
        }
    };
}

codes! {
    /// Something that is named is not there: a host, a subset, a port of a Service, a Gateway, or the Pods of a gateway.
    /// Requests that get there are answered with 503, or are not served at all.
    Ist0101 = "IST0101" "ReferencedResourceNotFound" Error,
    /// A namespace is not labelled for Istio's injection. Istio would leave its Pods outside the mesh; here they are in it.
    Ist0102 = "IST0102" "NamespaceNotInjected" Info,
    /// A Pod asks to be in the mesh, and no agent can take it in.
    Ist0103 = "IST0103" "PodMissingProxy" Warning,
    /// The object is not what Istio's schema and webhook take. It is not in force; its last good version is, if there
    /// was one.
    Ist0106 = "IST0106" "SchemaValidationError" Error,
    /// The annotation exists, but it means nothing on an object of this kind.
    Ist0107 = "IST0107" "MisplacedAnnotation" Warning,
    /// Istio knows no such annotation, on whatever object.
    Ist0108 = "IST0108" "UnknownAnnotation" Warning,
    /// Two VirtualServices that apply in the mesh are for the same host. They are not merged: the older one has the host,
    /// and the rules of the other are not used for it.
    Ist0109 = "IST0109" "ConflictingMeshGatewayVirtualServiceHosts" Error,
    /// Two Sidecars of a namespace select the same Pod. The older one holds.
    Ist0110 = "IST0110" "ConflictingSidecarWorkloadSelectors" Error,
    /// Several Sidecars of a namespace have no selector. The oldest one holds.
    Ist0111 = "IST0111" "MultipleSidecarsWithoutWorkloadSelectors" Error,
    /// A route names a Service of several ports and does not say which. The request goes to the port on which it came in,
    /// which the Service may not have.
    Ist0112 = "IST0112" "VirtualServiceDestinationPortSelectorRequired" Error,
    /// Several Services stand in front of one Pod and give one port different protocols. Only one of them can hold when
    /// a connection arrives at the Pod.
    Ist0116 = "IST0116" "DeploymentAssociatedToMultipleServices" Warning,
    /// Neither the name of a port nor its appProtocol says what is spoken on it, so the first bytes of each connection
    /// have to tell, and protocols in which the server speaks first wait for that.
    Ist0118 = "IST0118" "PortNameIsNotUnderNamingConvention" Info,
    /// An annotation has a value that it cannot have.
    Ist0125 = "IST0125" "InvalidAnnotation" Warning,
    /// A selector matches no Pod.
    Ist0127 = "IST0127" "NoMatchingWorkloadsFound" Warning,
    /// Connections to the host are encrypted, and the server's certificate is not compared with any authority's.
    Ist0128 = "IST0128" "NoServerCertificateVerificationDestinationLevel" Warning,
    /// Connections to a port of the host are encrypted, and the server's certificate is not compared with any
    /// authority's.
    Ist0129 = "IST0129" "NoServerCertificateVerificationPortLevel" Warning,
    /// A rule stands behind one that takes every request that it would match.
    Ist0130 = "IST0130" "VirtualServiceUnreachableRule" Warning,
    /// A match of a rule stands behind another that takes every request that it would match. Its rule is still used for
    /// its other matches.
    Ist0131 = "IST0131" "VirtualServiceIneffectiveMatch" Info,
    /// A VirtualService is bound to a Gateway that serves none of its hosts, so it has no effect there.
    Ist0132 = "IST0132" "VirtualServiceHostNotFoundInGateway" Warning,
    /// The object is in force, and Istio's webhook would warn of it.
    Ist0133 = "IST0133" "SchemaWarning" Warning,
    /// A ServiceEntry without addresses has a port that is not HTTP: it takes every connection to that port, whatever
    /// address was dialled.
    Ist0134 = "IST0134" "ServiceEntryAddressesRequired" Warning,
    /// Istio has deprecated this annotation.
    Ist0135 = "IST0135" "DeprecatedAnnotation" Info,
    /// Several Services reach the same port of a Pod by different ports of their own. A connection that arrives at the Pod
    /// does not tell which of them it was for.
    Ist0137 = "IST0137" "DeploymentConflictingPorts" Warning,
    /// Several Gateways present one certificate. A browser that has one connection to it uses it for all hosts of the
    /// certificate, and gets 404 for those of the other Gateway.
    Ist0138 = "IST0138" "GatewayDuplicateCertificate" Warning,
    /// A gateway sends requests to a Service as a whole, while the mesh has rules for that Service that choose subsets.
    /// Rules of the mesh do not apply to what comes in through a gateway.
    Ist0140 = "IST0140" "IngressRouteRulesNotAffected" Warning,
    /// A Pod runs as user 1337, which is the proxy's own: where connections are steered by iptables, those of this user
    /// are taken for the proxy's and pass by the mesh.
    Ist0144 = "IST0144" "InvalidApplicationUID" Warning,
    /// Two Gateways with the same selector serve the same host on the same port. Which of them has it is not for the
    /// reader to see.
    Ist0145 = "IST0145" "ConflictingGateways" Error,
    /// A route asks for a claim of a token, and no RequestAuthentication checks tokens where it applies, so it never
    /// matches.
    Ist0149 = "IST0149" "JwtClaimBasedRoutingWithoutRequestAuthN" Error,
    /// The Secret of a Gateway's certificate does not hold what a certificate needs.
    Ist0161 = "IST0161" "InvalidGatewayCredential" Error,
    /// A Gateway has a server on a port that no Service in front of its Pods has, so that nobody gets there by a Service.
    Ist0162 = "IST0162" "GatewayPortNotDefinedOnService" Warning,
    /// A subset of a DestinationRule selects none of the Pods of its Service. What is sent to it is answered with 503.
    Ist0173 = "IST0173" "DestinationRuleSubsetNotSelectPods" Error,
    /// A DestinationRule is for a host that no Service has, so it has no effect.
    Ist0174 = "IST0174" "UnknownDestinationRuleHost" Warning,
    /// ServiceEntries for one host and port do not agree on the protocol. The oldest one decides.
    Ist0177 = "IST0177" "ConflictingServiceEntries" Warning,
    /// Istio does this and mesh-agent does not, yet. Where leaving it out would send requests elsewhere, or unprotected,
    /// the object is not in force. A DestinationRule with tls mode ISTIO_MUTUAL is in force, in plain text.
    Mesh0001 = "MESH0001" "NotSupported" Warning,
    /// The text is not YAML that kubectl would take, or it is no Kubernetes object.
    Mesh0002 = "MESH0002" "NotAnObject" Error,
    /// The file or the directory cannot be read. What it said last is still in force.
    Mesh0003 = "MESH0003" "Unreadable" Error,
    /// One object stands in several places. The one that was written last is in force, as if all had been applied in
    /// the order in which they were written.
    Mesh0004 = "MESH0004" "WrittenTwice" Warning,
    /// A certificate has expired, will do so soon, or is not valid yet. Clients turn away from a server that shows it.
    Mesh0005 = "MESH0005" "CertificateNotValid" Warning,
    /// A server of a Gateway is not served, because another one has its port or its hosts: the older Gateway's, or the one
    /// that is written first.
    Mesh0006 = "MESH0006" "GatewayServerConflict" Error,
    /// A rule of a delegate asks for something that the rule which delegates does not let through, or does something that
    /// it cannot do there. That much of it is not used.
    Mesh0007 = "MESH0007" "DelegateDoesNotFit" Warning,
    /// A Pod asks to be in the mesh and cannot be: it has the network of its node, or a proxy of Istio's. It stays outside.
    Mesh0008 = "MESH0008" "NotEnrolled" Warning,
}

impl Code {
    /// What is wrong where the rule is broken, and what comes of it.
    pub fn explanation(self) -> &'static str {
        // Every line of documentation begins with a space, which is what separates them.
        self.documentation().trim_ascii_start()
    }

    /// The rule of a code, in capitals or not.
    pub fn of(id: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.id().eq_ignore_ascii_case(id))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}
