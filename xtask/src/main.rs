//! Every developer and CI task: `cargo xtask <verb>`.

fn main() {}
