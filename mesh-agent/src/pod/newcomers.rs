//! Pods that are about to begin: the CNI plugin of the container runtime asks for each, and waits for the answer.
//!
//! The plugin brings the pod's network namespace and addresses before any process runs in it and before the API server
//! knows the addresses, so that a pod is in the mesh when its first process starts.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::cni::{Answer, Question, Verb};
use crate::model::{PodId, Snapshot};
use crate::netns::{NetNs, NetNsId};
use crate::sys::passing;

/// How long a plugin may take to ask.
const ASKING: Duration = Duration::from_secs(5);

/// How long a pod may be unknown to the API server, as far as we have heard, or on its way into the mesh.
const WAITING: Duration = Duration::from_secs(20);

/// How long what a plugin said holds where no process of the pod is found: by then its first one has started, or never will.
const ANNOUNCED: Duration = Duration::from_secs(120);

/// How many plugins may wait at a time. A node has some hundred pods.
const MOST: usize = 512;

/// The largest question.
const LARGEST: usize = 16 << 10;

/// A question, and who waits for the answer.
#[derive(Debug)]
pub struct Newcomer {
    question: Question,
    netns: Option<NetNs>,
    reply: oneshot::Sender<Answer>,
}

/// Where plugins ask. Dropping it takes the socket away, if it is still ours.
#[derive(Debug)]
pub struct Door {
    path: PathBuf,
    inode: u64,
}

impl Door {
    /// Listens at `path` for plugins; an agent that did so before is taken over from.
    pub fn open(path: &Path) -> io::Result<(Self, mpsc::Receiver<Newcomer>)> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // Bound beside, and moved: at no time is nobody there.
        let beside = path.with_extension("new");
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        let inode = fs::metadata(&beside)?.ino();
        fs::rename(&beside, path)?;
        let (tell, inbox) = mpsc::channel(MOST);
        std::thread::Builder::new()
            .name("newcomers".to_owned())
            .spawn(move || listen(&listener, &tell))?;
        let door = Self {
            path: path.to_path_buf(),
            inode,
        };
        Ok((door, inbox))
    }

    /// Whether no other agent has taken over.
    pub fn is_ours(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.is_ours() {
            // A socket that nobody listens at says the same as none.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes questions for as long as the process lives. Each has a thread, which mostly waits.
fn listen(listener: &UnixListener, tell: &mpsc::Sender<Newcomer>) {
    let busy = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(e) => {
                warn!(error = %e, "a CNI plugin could not be heard; the container runtime asks again");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if busy.fetch_add(1, Ordering::Relaxed) >= MOST {
            // The runtime tries again.
            busy.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (tell, count) = (tell.clone(), Arc::clone(&busy));
        let spawned = std::thread::Builder::new()
            .name("newcomer".to_owned())
            .spawn(move || {
                if let Err(e) = hear(&stream, &tell) {
                    debug!(error = %e, "a CNI plugin has gone without an answer");
                }
                count.fetch_sub(1, Ordering::Relaxed);
            });
        if spawned.is_err() {
            busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Takes one question, and answers it.
fn hear(stream: &UnixStream, tell: &mpsc::Sender<Newcomer>) -> io::Result<()> {
    stream.set_read_timeout(Some(ASKING))?;
    stream.set_write_timeout(Some(ASKING))?;
    let (message, descriptor) = passing::receive(stream, LARGEST)?;
    let question: Question = serde_json::from_slice(&message)?;
    let netns = descriptor.map(NetNs::from_descriptor).transpose()?;
    let (reply, answer) = oneshot::channel();
    let newcomer = Newcomer {
        question,
        netns,
        reply,
    };
    let gone = || io::Error::other("the agent ends");
    tell.blocking_send(newcomer).map_err(|_| gone())?;
    let answer = answer.blocking_recv().map_err(|_| gone())?;
    serde_json::to_writer(stream, &answer)?;
    Ok(())
}

/// What plugins have said, and those who wait.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    announced: HashMap<PodId, Announced>,
    waiting: Vec<Waiting>,
}

/// A pod as its plugin showed it.
#[derive(Debug)]
struct Announced {
    uid: String,
    netns: Arc<NetNs>,
    addresses: Vec<IpAddr>,
    since: Instant,
}

/// A plugin that waits.
#[derive(Debug)]
struct Waiting {
    pod: PodId,
    uid: String,
    netns: NetNsId,
    reply: oneshot::Sender<Answer>,
    since: Instant,
}

impl Newcomers {
    /// Takes a question in. Most are answered when the pods have been gone through.
    pub(super) fn take(&mut self, newcomer: Newcomer, now: Instant) {
        let Newcomer {
            question,
            netns,
            reply,
        } = newcomer;
        let pod = PodId {
            namespace: question.namespace.into(),
            name: question.name.into(),
        };
        match (question.verb, netns) {
            (Verb::Add, Some(netns)) => {
                let netns = Arc::new(netns);
                self.waiting.push(Waiting {
                    pod: pod.clone(),
                    uid: question.uid.clone(),
                    netns: netns.id(),
                    reply,
                    since: now,
                });
                let announced = Announced {
                    uid: question.uid,
                    netns,
                    addresses: question.addresses,
                    since: now,
                };
                self.announced.insert(pod, announced);
            }
            (Verb::Add, None) => {
                let why = "its network namespace did not come with the question".to_owned();
                // A plugin that has gone needs no answer; so below.
                let _ = reply.send(Answer::Wait { why });
            }
            (Verb::Delete, _) => {
                self.announced.retain(|known, announced| {
                    *known != pod || (!question.uid.is_empty() && announced.uid != question.uid)
                });
                let _ = reply.send(Answer::Begin);
            }
            (Verb::Ping, _) => drop(reply.send(Answer::Begin)),
        }
    }

    /// The namespace and addresses of a pod, as its plugin showed them not long ago.
    pub(super) fn shown(&self, pod: &PodId, uid: Option<&str>) -> Option<(Arc<NetNs>, &[IpAddr])> {
        let announced = self.announced.get(pod)?;
        let same = announced.uid.is_empty() || uid == Some(&*announced.uid);
        same.then(|| (Arc::clone(&announced.netns), announced.addresses.as_slice()))
    }

    /// Answers those who wait, as the pods are now. `enrolled` says whether a pod is in the mesh by a namespace, and
    /// `failed` why it is not.
    pub(super) fn answer(
        &mut self,
        snapshot: &Snapshot,
        now: Instant,
        enrolled: impl Fn(&PodId, NetNsId) -> bool,
        failed: impl Fn(&PodId) -> Option<String>,
    ) {
        let mut begun: Vec<PodId> = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.reply.is_closed() {
                continue;
            }
            let known = snapshot.pods.get(&waiting.pod).filter(|pod| {
                waiting.uid.is_empty() || pod.uid.as_deref().is_none_or(|uid| *uid == *waiting.uid)
            });
            let local = known.and_then(|pod| pod.local.as_ref());
            let late = now >= waiting.since + WAITING;
            let answer = match local {
                Some(local) if !local.enrol => {
                    begun.push(waiting.pod.clone());
                    Some(Answer::Begin)
                }
                Some(_) if enrolled(&waiting.pod, waiting.netns) => Some(Answer::Begin),
                Some(_) => failed(&waiting.pod)
                    .or_else(|| late.then(|| "it takes too long".to_owned()))
                    .map(|why| Answer::Wait { why }),
                None if late => Some(Answer::Wait {
                    why: "the API server has not told of it".to_owned(),
                }),
                None => None,
            };
            match answer {
                Some(answer) => {
                    info!(pod = %waiting.pod, ?answer, "asked for by the CNI plugin");
                    let _ = waiting.reply.send(answer);
                }
                None => self.waiting.push(waiting),
            }
        }
        self.announced
            .retain(|pod, announced| !begun.contains(pod) && now < announced.since + ANNOUNCED);
    }
}

#[cfg(test)]
mod tests;
