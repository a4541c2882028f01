//! What is asked for, and whether whoever asks may.

use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Method};

use crate::daemon::token::Token;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// How the daemon is.
    Health,
    /// Whether it is there.
    Life,
    /// What is measured.
    Metrics,
    /// Which jobs there are.
    Jobs,
    /// What has become of one.
    Job(&'a str),
    /// That one runs.
    Run(&'a str),
    /// Something that there is not.
    Nothing,
    /// Something that there is, in another way: these.
    Otherwise(&'static str),
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A socket that only its owner, and root, can open.
    Unix,
    /// Some user of this machine.
    Loopback,
    /// Anywhere.
    Far,
}

/// Who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Who may know and do everything.
    Known,
    /// Who may know what users of this machine may.
    Anybody,
}

/// Why it may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// No token, or another one.
    Unknown,
    /// There is no token that would do.
    NoToken,
}

const READ: &str = "GET, HEAD";

/// What `method` wants of `path`.
pub(super) fn route<'a>(method: &Method, path: &'a str) -> Route<'a> {
    let reads =
        |route| if [Method::GET, Method::HEAD].contains(method) { route } else { Route::Otherwise(READ) };
    match path {
        "/healthz" => reads(Route::Health),
        "/livez" => reads(Route::Life),
        "/metrics" => reads(Route::Metrics),
        "/jobs" => reads(Route::Jobs),
        _ => match path.strip_prefix("/jobs/").map(|rest| (rest, rest.strip_suffix("/run"))) {
            Some((_, Some(name))) if is_name(name) => match *method == Method::POST {
                true => Route::Run(name),
                false => Route::Otherwise("POST"),
            },
            Some((name, None)) if is_name(name) => reads(Route::Job(name)),
            _ => Route::Nothing,
        },
    }
}

fn is_name(text: &str) -> bool {
    crate::config::is_name(text)
}

/// Who asks: of these headers, with that `token`.
///
/// # Errors
/// He may not.
pub(super) fn admitted(
    route: &Route<'_>,
    origin: Origin,
    headers: &HeaderMap,
    token: Option<&Token>,
) -> Result<Who, Refused> {
    if origin == Origin::Unix {
        return Ok(Who::Known);
    }
    if token.is_some_and(|token| offered(headers).is_some_and(|offered| token.is(offered))) {
        return Ok(Who::Known);
    }
    let is_for_anybody = match route {
        Route::Health | Route::Life => true,
        Route::Run(_) => false,
        _ => origin == Origin::Loopback,
    };
    match (is_for_anybody, token) {
        (true, _) => Ok(Who::Anybody),
        (false, Some(_)) => Err(Refused::Unknown),
        (false, None) => Err(Refused::NoToken),
    }
}

/// The token that somebody has: of two, neither counts.
fn offered(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let only = all.next().filter(|_| all.next().is_none())?.as_bytes();
    let (scheme, token) = only.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_thing_and_has_its_methods() {
        let get = |path| route(&Method::GET, path);
        assert_eq!((get("/healthz"), get("/livez")), (Route::Health, Route::Life));
        assert_eq!(route(&Method::HEAD, "/metrics"), Route::Metrics);
        assert_eq!((get("/jobs"), get("/jobs/a.b-c_1")), (Route::Jobs, Route::Job("a.b-c_1")));
        assert_eq!(route(&Method::POST, "/jobs/node/run"), Route::Run("node"));
        assert_eq!(get("/jobs/node/run"), Route::Otherwise("POST"));
        for path in ["/healthz", "/metrics", "/jobs", "/jobs/node"] {
            assert_eq!(route(&Method::POST, path), Route::Otherwise(READ), "{path}");
        }
        for path in [
            "",
            "/",
            "*",
            "/healthz/",
            "/jobs/",
            "/jobs//run",
            "/jobs/a/b/run",
            "/jobs/../x",
            "/jobs/%61",
            "/jobs/a/run/",
            "/METRICS",
            "/jobs/.a",
            "/jobs/a b",
        ] {
            assert_eq!(route(&Method::POST, path), Route::Nothing, "{path}");
            assert_eq!(get(path), Route::Nothing, "{path}");
        }
    }

    #[test]
    fn who_may_what() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "0123456789abcdef").expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("changed");
        let token = Token::read(&path).expect("good");
        let headers = |all: &[&str]| {
            let mut headers = HeaderMap::new();
            for one in all {
                headers.append(AUTHORIZATION, one.parse().expect("a value"));
            }
            headers
        };
        let [none, good, wrong] =
            [&[][..], &["bearer 0123456789abcdef"], &["Bearer 0123456789abcdeg"]].map(headers);
        let twice = headers(&["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"]);
        let basic = headers(&["Basic 0123456789abcdef"]);
        use Origin::*;
        use Refused::*;
        use Who::*;
        let (run, health, metrics) = (Route::Run("a"), Route::Health, Route::Metrics);
        let table = [
            (&run, Unix, &none, false, Ok(Known)),
            (&run, Loopback, &none, true, Err(Unknown)),
            (&run, Loopback, &wrong, true, Err(Unknown)),
            (&run, Loopback, &twice, true, Err(Unknown)),
            (&run, Loopback, &basic, true, Err(Unknown)),
            (&run, Loopback, &good, true, Ok(Known)),
            (&run, Loopback, &good, false, Err(NoToken)),
            (&run, Far, &good, true, Ok(Known)),
            (&run, Far, &none, true, Err(Unknown)),
            (&metrics, Loopback, &none, false, Ok(Anybody)),
            (&metrics, Far, &none, true, Err(Unknown)),
            (&metrics, Far, &good, true, Ok(Known)),
            (&metrics, Far, &none, false, Err(NoToken)),
            (&health, Far, &none, true, Ok(Anybody)),
            (&health, Far, &wrong, true, Ok(Anybody)),
            (&health, Loopback, &good, true, Ok(Known)),
            (&Route::Life, Far, &none, true, Ok(Anybody)),
            (&Route::Nothing, Far, &none, true, Err(Unknown)),
        ];
        for (route, origin, headers, has_token, wanted) in table {
            let found = admitted(route, origin, headers, has_token.then_some(&token));
            assert_eq!(found, wanted, "{route:?} {origin:?} {headers:?} {has_token}");
        }
    }
}
