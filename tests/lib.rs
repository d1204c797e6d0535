//! The world that the tests and the demo run in: network namespaces for a node and its pods, and servers inside them.
