//! TLS at a gateway, as far as it is decided without a handshake.

use anyhow::Result;
use mesh_agent::model::{ClientAuthentication, Credential};
use mesh_agent::route::{self, Secure};

use super::{Asked, nothing};
use crate::corpus::ask::Answer;
use crate::corpus::ask::secured::Handshake;
use crate::corpus::check::Outcome;
use crate::corpus::keys::keys;

impl Asked<'_> {
    /// The name that a client of TLS asks for, which may be empty.
    pub(super) fn server_name(&self) -> Option<String> {
        let over = self.request.over_tls.as_ref();
        let over = over.map(|over| over.sni.as_deref().unwrap_or(self.request.name()));
        let asked = self.request.tls.as_deref().or(over);
        asked.map(str::to_ascii_lowercase)
    }

    /// TLS at a gateway, as far as that is decided without a handshake.
    pub(super) fn secured(&self) -> Result<Outcome> {
        let name = self.server_name();
        let name = name.as_deref().filter(|name| !name.is_empty());
        let port = self.request.port();
        let decided = route::secure(self.snapshot, &self.client, port, name);
        let (opening, outcome) = match decided {
            None => return Ok(nothing("nobody has the name")),
            Some(Secure::Beyond(scope)) => return self.stream(&scope),
            Some(Secure::Http(opening, scope)) => (opening, self.decided(&scope)?),
            Some(Secure::Stream(opening, scope)) => (opening, self.stream(&scope)?),
        };
        let shows = self
            .request
            .over_tls
            .as_ref()
            .and_then(|over| over.shows.as_ref());
        if matches!(opening.tls.clients, ClientAuthentication::Required(_)) && shows.is_none() {
            return Ok(nothing("a certificate is missing"));
        }
        let shown = opening.tls.certificates.first().and_then(|own| match own {
            Credential::Given(pair) => keys().name_of_pem(&pair.chain),
            Credential::Files(files) => files.first()?.file_stem()?.to_str(),
            Credential::Missing(_) => None,
        });
        let Some(shown) = shown else {
            return Ok(nothing("there is no certificate"));
        };
        let handshake = Handshake {
            shown: shown.to_owned(),
            ..Handshake::default()
        };
        let answer = outcome.answer.map(|answer| Answer {
            tls: Some(handshake),
            ..answer
        });
        Ok(Outcome { answer, ..outcome })
    }
}
