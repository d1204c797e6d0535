//! Which connection is steered where: the pure decision, run by the kernel and by the tests.
