//! When to end: the first SIGTERM or SIGINT asks politely, a second one does not wait.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// Tells everybody that the process is to end. Cheap to clone.
#[derive(Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Starts to listen for signals.
pub fn on_signals() -> std::io::Result<Shutdown> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if asked {
                warn!(
                    signal = name,
                    "again: ending without waiting for connections"
                );
                // The next start clears away what this leaves.
                std::process::exit(1);
            }
            asked = true;
            info!(signal = name, "ending; the same signal again ends at once");
            tell.send_replace(true);
        }
    });
    Ok(Shutdown(told))
}

impl Shutdown {
    /// Resolves when the process is to end.
    pub async fn asked(&self) {
        let mut told = self.0.clone();
        // An error says that the teller is gone, and with it the process' reason to go on.
        let _ = told.wait_for(|asked| *asked).await;
    }
}
