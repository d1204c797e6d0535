//! Tests of the whole agent.

fn main() {}
