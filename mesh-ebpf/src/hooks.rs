//! What each program does between its entry and its verdict.

/// Reads a field of a context or a socket, with one aligned load that the compiler leaves as it is: the verifier takes
/// no other, and wants the value copied before it serves as a map key.
macro_rules! read {
    ($pointer:expr, $($field:tt)+) => {{
        // SAFETY: the pointer is not null, and the kernel keeps what it points to alive while the program runs.
        let field = unsafe { &raw const (*$pointer).$($field)+ };
        // SAFETY: likewise, and the verifier has checked that the program may read the field.
        unsafe { field.read_volatile() }
    }};
}

pub mod connect;
mod leg;
pub mod lookup;
pub mod moved;
pub mod send;
pub mod sock_ops;
