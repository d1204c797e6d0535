//! What is read of the policies of `security.istio.io` and `telemetry.istio.io`: whom they are for. Nothing else of them is
//! acted on, so this is not all that they have.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::crd::Present;
use crate::config::crd::destination_rule::WorkloadSelector;

/// `spec` of an AuthorizationPolicy, a PeerAuthentication, a RequestAuthentication or a Telemetry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct PolicySpec {
    pub selector: Option<WorkloadSelector>,
    pub target_ref: Option<Present>,
    pub target_refs: Vec<Present>,
    pub port_level_mtls: BTreeMap<String, Present>,
}
