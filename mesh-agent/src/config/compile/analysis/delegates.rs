//! Rules that delegate to a VirtualService that is not there, or is none of theirs (IST0101), and rules of delegates that do
//! not fit into the rule that names them (MESH0007).

use crate::config::Inputs;
use crate::config::compile::analysis::Findings;
use crate::config::compile::delegates;

pub(super) fn check(inputs: &Inputs, findings: &mut Findings) {
    delegates::resolve(inputs, &mut |object, problem| findings.add(object, problem));
}
