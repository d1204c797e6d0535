//! Map keys and values, names and marks, shared by the kernel and the agent.
