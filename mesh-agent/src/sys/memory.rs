//! Memory that is free, and whose it is.

/// Gives memory back to the kernel that was freed. The allocator keeps it else, for the next time that as much is needed:
/// right for the work of every day, and wrong after what hardly ever happens, such as reading all manifests. It takes
/// milliseconds, during which those who share an allocation arena with the caller wait.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no library wraps malloc_trim")]
pub fn give_back() {
    // SAFETY: it may be called at any time, from any thread, and touches nothing but memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries give it back by themselves, or cannot be told to.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
