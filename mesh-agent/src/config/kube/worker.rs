//! The thread that makes worlds of what the API server says.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::config::compile::secrets_named;
use crate::config::kube::Viewer;
use crate::config::kube::feed::Feed;
use crate::config::kube::herald::News;
use crate::config::kube::saved::Saved;
use crate::config::kube::secrets::Names;
use crate::config::kube::store::{Store, Told};
use crate::config::maker::{Maker, QUIET};
use crate::config::{CompileOptions, Update};

/// How long nothing must have come before a world is made.
const SETTLED: Duration = Duration::from_millis(4);

/// How long a server that never rests is gathered from.
const RESTLESS: Duration = Duration::from_millis(25);

/// How long the server is waited for before what was saved of it serves.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it is said what is still waited for.
const REMIND: Duration = Duration::from_secs(10);

/// Everything that the thread owns.
#[derive(Debug)]
pub(super) struct Worker {
    store: Store,
    maker: Maker,
    viewer: Viewer,
    directory: Option<PathBuf>,
    saved: Option<Saved>,
    /// The Secrets that are to be followed.
    names: watch::Sender<Names>,
    /// For those who say what is wrong, if anyone does.
    news: watch::Sender<News>,
    /// Whether a world is in force.
    started: bool,
    /// The first and the last event that no world has been made of.
    unmade: Option<(Instant, Instant)>,
}

impl Worker {
    pub(super) fn new(
        feeds: Vec<Feed>,
        directory: Option<PathBuf>,
        options: CompileOptions,
        viewer: Viewer,
        (names, news): (watch::Sender<Names>, watch::Sender<News>),
    ) -> Self {
        Self {
            store: Store::new(feeds),
            maker: Maker::new(options),
            viewer,
            directory,
            saved: None,
            names,
            news,
            started: false,
            unmade: None,
        }
    }

    /// Runs until nobody tells anything more, or nobody listens.
    pub(super) fn run(
        mut self,
        inbox: mpsc::Receiver<(Feed, Told)>,
        publish: &watch::Sender<Option<Update>>,
    ) {
        // Tokio's channel has no receive with a timeout for threads; a runtime for one task does the same.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        match runtime {
            Ok(runtime) => {
                self.restore();
                runtime.block_on(self.serve(inbox, publish));
            }
            Err(e) => tracing::error!(error = %e, "the API server cannot be followed"),
        }
    }

    /// Takes over what was saved, until the server has said it again.
    fn restore(&mut self) {
        let Some(directory) = self.directory.take() else {
            return;
        };
        let (store, options) = (&mut self.store, self.maker.options());
        let opened = Saved::open(&directory, |feed, json| {
            store.take(&feed, Told::Changed(json), Instant::now(), options);
        });
        match opened {
            Ok(saved) => self.saved = Some(saved),
            Err(e) => tracing::warn!(
                directory = %directory.display(),
                error = %e,
                "what the API server says is not saved; a start without the server has to wait for it"
            ),
        }
    }

    async fn serve(
        mut self,
        mut inbox: mpsc::Receiver<(Feed, Told)>,
        publish: &watch::Sender<Option<Update>>,
    ) {
        let begun = Instant::now();
        let mut remind = begun + REMIND;
        let may_serve = self.store.len() > 0;
        while !publish.is_closed() {
            let now = Instant::now();
            let wait = self
                .wait(now, begun, may_serve)
                .min(remind.saturating_duration_since(now));
            match tokio::time::timeout(wait, inbox.recv()).await {
                Ok(Some((feed, told))) => {
                    self.take(&feed, told);
                    continue;
                }
                Ok(None) => return,
                Err(_) => {}
            }
            let now = Instant::now();
            if self.store.calm(now) {
                self.touch(now);
            }
            if !self.started {
                let patient = may_serve && now >= begun + PATIENCE;
                if self.store.is_whole() || patient {
                    self.start(publish);
                } else if now >= remind {
                    remind = now + REMIND;
                    self.remind();
                }
            } else if self.due().is_some_and(|due| now >= due) {
                let update = self.world();
                self.publish(update, publish);
            } else if self.unmade.is_none() && self.maker.is_fresh() {
                if let Some(update) = self.maker.analyze() {
                    self.publish(update, publish);
                }
            } else if now >= remind {
                remind = now + REMIND;
                self.maker.give_back();
            }
        }
    }

    /// How long there is nothing to do unless something comes.
    fn wait(&self, now: Instant, begun: Instant, may_serve: bool) -> Duration {
        let at = match (self.started, self.due()) {
            (false, _) if self.store.is_whole() => return Duration::ZERO,
            (false, _) if may_serve => begun + PATIENCE,
            (true, Some(due)) => due,
            (true, None) if self.maker.is_fresh() => now + QUIET,
            (false, _) | (true, None) => now + REMIND,
        };
        at.saturating_duration_since(now)
    }

    /// When the next world is to be made.
    fn due(&self) -> Option<Instant> {
        let (first, last) = self.unmade?;
        Some((last + SETTLED).min(first + RESTLESS))
    }

    fn take(&mut self, feed: &Feed, told: Told) {
        let now = Instant::now();
        if let Feed::Secret(name) = feed
            && !self.names.borrow().contains(name)
        {
            // It was on its way when the last Gateway that names it went.
            return;
        }
        if let Told::Failing(why) = &told {
            tracing::debug!(%feed, why, "the API server cannot be followed");
        }
        let had_trouble = self.store.trouble().is_some();
        let news = self.store.take(feed, told, now, self.maker.options());
        for (id, json) in &news {
            if let Some(saved) = &mut self.saved {
                saved.note(feed, id, json.as_ref());
            }
        }
        if !news.is_empty() || had_trouble != self.store.trouble().is_some() {
            self.touch(now);
        }
    }

    fn touch(&mut self, now: Instant) {
        let (_, last) = self.unmade.get_or_insert((now, now));
        *last = now;
    }

    /// Puts the first world in force: the whole one, or what was saved of it. A gateway waits for its Secrets too.
    fn start(&mut self, publish: &watch::Sender<Option<Update>>) {
        let whole = self.store.is_whole();
        self.maker.take(self.store.changes());
        self.name_secrets();
        if whole && !self.store.is_whole() {
            return;
        }
        if !whole {
            tracing::warn!(
                objects = self.store.len(),
                "the API server is not there; what it said last is in force until it is back"
            );
        }
        self.started = true;
        let first = self.world();
        let first = self.maker.analyze().unwrap_or(first);
        self.publish(first, publish);
        self.maker.prepare();
    }

    fn publish(&self, update: Update, publish: &watch::Sender<Option<Update>>) {
        if self.news.receiver_count() > 0 {
            self.news
                .send_replace(self.store.news(update.rejected.clone()));
        }
        publish.send_replace(Some(update));
    }

    /// The world as it is now.
    fn world(&mut self) -> Update {
        self.unmade = None;
        self.maker.take(self.store.changes());
        self.name_secrets();
        if let Some(saved) = &mut self.saved {
            saved.flush();
        }
        self.maker.world(self.store.rejected())
    }

    /// Says which Secrets are to be followed, and lets go of the others.
    fn name_secrets(&mut self) {
        if !matches!(self.viewer, Viewer::Gateway { .. }) {
            return;
        }
        let named: BTreeSet<_> = secrets_named(self.maker.inputs());
        let before = self.names.borrow().clone();
        if named == before {
            return;
        }
        for name in before.difference(&named) {
            let feed = Feed::Secret(name.clone());
            for id in self.store.drop_feed(&feed) {
                if let Some(saved) = &mut self.saved {
                    saved.note(&feed, &id, None);
                }
            }
        }
        for name in named.difference(&before) {
            self.store.expect(Feed::Secret(name.clone()));
        }
        self.names.send_replace(named);
        self.maker.take(self.store.changes());
    }

    fn remind(&self) {
        let missing: Vec<String> = self.store.missing().map(ToString::to_string).collect();
        tracing::warn!(
            missing = missing.join(", "),
            why = self.store.trouble(),
            "waiting for the API server; nothing is served until it has said everything"
        );
    }
}
