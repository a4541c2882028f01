//! What is meant by what a store answers.

use super::remote::Remote;
use super::wire::{self, Trouble};
use super::{Cause, Error};
use crate::model::StoreKind;

/// What came of a request that did not go well.
#[derive(Debug)]
pub(super) enum Fate {
    /// There is no such thing.
    NotFound(&'static str),
    /// The key is not free, or something else is done with it; what the store said.
    Taken(Cause),
    /// It may go well another time.
    Again(Cause),
    /// It will not.
    Final(Error),
}

impl Remote {
    pub(super) fn fatal(&self, op: &'static str, key: &str, fate: Fate) -> Error {
        let subject = self.url.with_key(key);
        match fate {
            Fate::Final(error) => error,
            Fate::NotFound(what) => self.absent(op, key, what),
            Fate::Taken(cause) => {
                let source = Cause(format!("something else is done with this key just now: {cause}"));
                Error::Refused { op, subject, source, hint: None }
            }
            Fate::Again(source) => Error::Unreachable { op, subject, tries: 1, seconds: 0, source },
        }
    }

    /// What an error means.
    pub(super) fn judge(
        &self,
        op: &'static str,
        key: &str,
        error: object_store::Error,
        trouble: Option<Trouble>,
    ) -> Fate {
        let subject = || self.url.with_key(key);
        match trouble.or_else(|| wire::transport(&error)) {
            Some(Trouble::Transport { what }) if what.contains("certificate") => {
                let hint = Some("name the authority that its certificate is from: --ca FILE".into());
                Fate::Final(Error::Refused { op, subject: subject(), source: Cause(what), hint })
            }
            Some(Trouble::Transport { what }) => Fate::Again(Cause(what)),
            Some(Trouble::Answer { status, code, message }) => {
                self.answered(op, key, status, &code, &message)
            }
            None => match error {
                object_store::Error::NotFound { .. } => Fate::NotFound("the object"),
                object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                    Fate::Taken(Cause(without_addresses(&error.to_string())))
                }
                object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
                    let source = Cause(without_addresses(&error.to_string()));
                    Fate::Final(Error::Refused { op, subject: subject(), source, hint: None })
                }
                error => self.told(op, key, &error.to_string()),
            },
        }
    }

    /// What is meant by an answer that is an error.
    fn answered(&self, op: &'static str, key: &str, status: u16, code: &str, message: &str) -> Fate {
        let subject = self.url.with_key(key);
        let mut text = format!("the store answers {status}");
        for more in [code, message].into_iter().filter(|more| !more.is_empty()) {
            text.push_str(": ");
            text.push_str(more);
        }
        let cause = Cause(text);
        match (status, code) {
            (404, "NoSuchBucket") => Fate::NotFound(super::error::BUCKET),
            (404, "ContainerNotFound") => Fate::NotFound(super::error::CONTAINER),
            (404 | 410, "NoSuchUpload") => Fate::NotFound("the upload"),
            (404 | 410, _) => Fate::NotFound("the object"),
            (409, "ConditionalRequestConflict" | "OperationAborted") => Fate::Again(cause),
            (409, "BlobArchived" | "BlobBeingRehydrated") => {
                let hint = Some("bring it to a tier that can be read, and try again when it is there".into());
                Fate::Final(Error::Refused { op, subject, source: cause, hint })
            }
            (409 | 412, _) => Fate::Taken(cause),
            (408 | 425 | 429, _) | (400, "RequestTimeout" | "SlowDown" | "Throttling") => Fate::Again(cause),
            (501 | 505, _) => Fate::Final(Error::Refused { op, subject, source: cause, hint: None }),
            (500..=599, _) => Fate::Again(cause),
            (401 | 403, _) | (400, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId") => {
                Fate::Final(Error::Denied {
                    op,
                    subject,
                    source: cause,
                    hint: Some(self.denied_hint(code).into()),
                })
            }
            (416, _) => Fate::Final(self.corrupt(op, key, "it ends before the bytes that are needed")),
            _ => Fate::Final(Error::Refused { op, subject, source: cause, hint: None }),
        }
    }

    /// What is meant by an error of which only the text is known.
    fn told(&self, op: &'static str, key: &str, text: &str) -> Fate {
        let holds = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if let Some((status, why)) = status_of_one(text) {
            return self.answered(op, key, status, "", why);
        }
        let cause = Cause(without_addresses(text));
        if holds(&["InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout"]) {
            return Fate::Again(cause);
        }
        let subject = self.url.with_key(key);
        if holds(&["AccessDenied"]) {
            return Fate::Final(Error::Denied { op, subject, source: cause, hint: None });
        }
        Fate::Final(self.corrupt(op, key, format!("the answer is not understood: {cause}")))
    }

    fn denied_hint(&self, code: &str) -> &'static str {
        match (self.url.kind(), code) {
            (_, "RequestTimeTooSkewed") => "set this machine's clock",
            (_, "InvalidObjectState") => "bring it back from its storage class, and try again",
            (
                StoreKind::Azure,
                "AuthenticationFailed" | "AuthorizationFailure" | "InvalidAuthenticationInfo",
            ) => {
                "see AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, and this machine's clock"
            }
            (StoreKind::Azure, "NoAuthenticationInformation") => {
                "see AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
            }
            (StoreKind::Gcs, _) => {
                "see GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT, and that they may do this in this bucket"
            }
            (_, "ExpiredToken" | "InvalidToken") => "get new credentials: AWS_SESSION_TOKEN has expired",
            (_, "SignatureDoesNotMatch" | "InvalidAccessKeyId") => {
                "see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and --profile"
            }
            _ => "see that the credentials may do this in this bucket",
        }
    }
}

/// The status of one of many that were to be destroyed at once, and why: `… for key KEY: WHY (code: 403)`.
fn status_of_one(text: &str) -> Option<(u16, &str)> {
    let (before, code) = text.rsplit_once(" (code: ")?;
    let status = code.strip_suffix(')')?.parse().ok()?;
    Some((status, before.rsplit(": ").next().unwrap_or_default()))
}

/// Without anything that looks like an address, which may hold what is secret.
fn without_addresses(text: &str) -> String {
    let words = text.split_whitespace().map(|word| if word.contains("://") { "…" } else { word });
    words.collect::<Vec<_>>().join(" ").chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;
    use crate::error::Class;

    fn remote(url: &str) -> Remote {
        let set = [("AZURE_STORAGE_ACCOUNT_NAME", "a"), ("AZURE_STORAGE_ACCOUNT_KEY", "aGFsbG8=")];
        let options = Options::from_variables(set.map(|(name, value)| (name.into(), value.into())));
        super::super::open::open(&url.parse().unwrap(), &options).unwrap()
    }

    fn told(text: &str) -> Error {
        let remote = remote("az://container/a");
        remote.fatal("destroy", "k", remote.told("destroy", "k", text))
    }

    #[test]
    fn what_became_of_one_of_many_is_what_its_status_says() {
        let said = |status: &str| {
            told(&format!(
                "Generic MicrosoftAzure error: Bulk delete request failed for key a: b: Why (code: {status})"
            ))
        };
        assert_eq!(said("403").class(), Class::Denied);
        assert_eq!(said("409").class(), Class::Conflict);
        assert_eq!(said("503").class(), Class::Unreachable);
        let source = std::error::Error::source(&said("403")).unwrap().to_string();
        assert_eq!(source, "the store answers 403: Why");
        assert_eq!(
            told("Bulk delete request failed for key a: Why (code: AccessDenied)").class(),
            Class::Denied
        );
        assert_eq!(told("the answer is something else").class(), Class::Corrupt);
    }

    #[test]
    fn azure_is_asked_for_no_name_that_it_would_change() {
        let azure = remote("az://container/a");
        assert!(azure.path("b.c/d").is_ok());
        for key in ["b.", "b./c", "b.c/d.."] {
            assert!(matches!(azure.path(key), Err(Error::Key { .. })), "{key}");
        }
        assert!(remote("az://container/a./b").path("c").is_err());
        assert!(remote("s3://bucket/a.").path("b.").is_ok());
    }

    #[test]
    fn who_is_not_let_in_is_told_of_the_credentials_of_that_provider() {
        let hint = |url: &str, code: &str| remote(url).denied_hint(code);
        assert!(hint("az://container/a", "AuthenticationFailed").contains("AZURE_STORAGE_ACCOUNT_KEY"));
        assert!(hint("s3://bucket/a", "SignatureDoesNotMatch").contains("AWS_SECRET_ACCESS_KEY"));
        assert_eq!(hint("az://container/a", "RequestTimeTooSkewed"), "set this machine's clock");
    }
}
