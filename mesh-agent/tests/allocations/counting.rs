//! An allocator that counts, and remembers where from when asked to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Counts the allocations of all threads, and hands them on to the system's allocator.
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static HELD: AtomicI64 = AtomicI64::new(0);
static TRACING: AtomicBool = AtomicBool::new(false);
static TRACES: Mutex<Vec<(usize, Backtrace)>> = Mutex::new(Vec::new());

thread_local! {
    /// Whether this thread is busy with what tracing itself allocates.
    static ASIDE: Cell<bool> = const { Cell::new(false) };
}

/// How many allocations there have been.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::SeqCst)
}

/// How many bytes are allocated now.
pub fn held() -> i64 {
    HELD.load(Ordering::SeqCst)
}

/// What allocates while `act` runs: sizes, and the innermost functions that are not the allocator's.
pub fn traced(act: impl FnOnce()) -> Vec<String> {
    TRACING.store(true, Ordering::SeqCst);
    act();
    TRACING.store(false, Ordering::SeqCst);
    let traces = std::mem::take(&mut *TRACES.lock().expect("no thread panics within"));
    traces
        .into_iter()
        .map(|(size, trace)| format!("{size} bytes{}", callers(&trace.to_string())))
        .collect()
}

/// The functions of a trace that say who it was, the innermost first.
fn callers(trace: &str) -> String {
    let frames = trace.lines().map(str::trim);
    let functions = frames.filter(|line| line.as_bytes().first().is_some_and(u8::is_ascii_digit));
    let names = functions.filter_map(|line| Some(line.split_once(": ")?.1));
    names
        // Functions of the standard library, and those that were inlined, have no such names.
        .filter(|name| {
            ["mesh_agent::", "hyper::", "http::", "tokio::"]
                .iter()
                .any(|krate| name.trim_start_matches('<').starts_with(krate))
        })
        .take(4)
        .map(|name| format!("\n      {name}"))
        .collect()
}

fn hold(size: usize) {
    HELD.fetch_add(size as i64, Ordering::SeqCst);
}

fn release(size: usize) {
    HELD.fetch_sub(size as i64, Ordering::SeqCst);
}

fn note(size: usize) {
    let counted = ASIDE.try_with(|aside| {
        if aside.replace(true) {
            return;
        }
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        if TRACING.load(Ordering::SeqCst)
            && let Ok(mut traces) = TRACES.lock()
        {
            traces.push((size, Backtrace::force_capture()));
        }
        aside.set(false);
    });
    // A thread that ends has no such memory any more; nothing is measured then.
    let _ = counted;
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: everything is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        hold(layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        hold(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        hold(size);
        release(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        release(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
