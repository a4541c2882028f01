//! Who is told of what is no run, or when none is over: that nobody can tell whether a job is due, what became of services that a run had left stopped, and what could not be
//! told before.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::{About, ToTell, change};
use crate::cli::Context;
use crate::cli::facts::within;
use crate::cli::job::hooks::{self, Moment};
use crate::config::Job;
use crate::exec::notify::{self, Heard};
use crate::exec::record::Records;
use crate::model::JobRecord;
use crate::model::notify::{Channel, Message, News};
use crate::model::run::{Again, Failure, Hearer, Op, Outcome, Subject, Tally, Unheard};
use crate::quiesce::Leases;

/// How long a disk has on which it is written who is told.
const SHORTLY: Duration = Duration::from_secs(5);
/// What is older is no news.
const OLD: SignedDuration = SignedDuration::from_hours(7 * 24);

/// That failed, which is no run, and may each minute. Whoever has not heard of it is told; answers that, and whether `on_failure` is to be called. Of one that is not
/// configured any more, it is written down. What has failed `since` then is what somebody else who was at it has counted.
pub(in crate::cli::job) fn failed(
    name: &str,
    job: Option<&Job>,
    op: Op,
    failure: &Failure,
    since: Option<Timestamp>,
    context: &Context,
) -> (Option<ToTell>, bool) {
    let (subject, now) = (Subject::of_job(op), Timestamp::now());
    let outcome = Outcome::done(subject.clone(), now, Duration::ZERO);
    let outcome = Outcome { failure: Some(failure.clone()), ..outcome };
    let has_hook = job.is_some_and(|job| hooks::has(Moment::OnFailure, job));
    let mut hearers = Hearer::ALL.to_vec();
    change(name, context, |record| {
        let last = record.tally(&subject).and_then(|tally| tally.last_failure.as_ref());
        let is_counted = last.zip(since).is_some_and(|(last, since)| (since..=now).contains(&last.at));
        if !is_counted {
            record.note(outcome);
        }
        hearers = record.who_is_to_hear(&subject, &failure.class, now);
        if has_hook && hearers.contains(&Hearer::Hook) {
            record.was_said(&subject, Hearer::Hook, &failure.class, now);
        }
    });
    let what = match op {
        Op::Due | Op::Trigger => Some("FAILED: nobody can tell whether it is due".into()),
        _ => None,
    };
    let to_tell = job.and_then(|job| {
        let message = Message { failure: Some(failure.clone()), what, ..message(job, News::Failure, now) };
        to_tell(job, message, About::Op(op), &hearers, now)
    });
    (to_tell, has_hook && hearers.contains(&Hearer::Hook))
}

/// That is well now. Who believes that it is not is told.
pub(in crate::cli::job) fn well(job: &Job, op: Op, context: &Context) -> Option<ToTell> {
    let (subject, now) = (Subject::of_job(op), Timestamp::now());
    let record = read(job, context)?;
    let tally = record.tally(&subject)?;
    let mut hearers = tally.who_believes();
    if !tally.is_failing() && hearers.is_empty() {
        return None;
    }
    let failure = tally.last_failure.clone().map(|last| last.failure);
    // Who hears that a run has failed hears of the next that goes well.
    let has_failed = record.last_run.as_ref().is_some_and(|last| last.failure.is_some());
    let message = Message {
        failure,
        what: Some("is well again: whether it is due can be told".into()),
        ..message(job, News::Recovery, now)
    };
    let told = to_tell(job, message, About::Op(op), &hearers, now).filter(|_| !has_failed);
    if let Some(told) = &told {
        hearers.retain(|whom| !told.is_for(*whom));
    }
    change(&job.name, context, |record| {
        if record.tally(&subject).is_some_and(|tally| tally.is_failing()) {
            record.note(Outcome::done(subject.clone(), now, Duration::ZERO));
        }
        record.was_said_over(&subject, &hearers);
    });
    told
}

/// What somebody who is to know has not heard of that job, oldest first.
pub(in crate::cli::job) fn unheard(job: &Job, context: &Context) -> Vec<ToTell> {
    let all = [over(job, context), killed(job, context), again(job, context)];
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    all.sort_by_key(|news| news.at);
    all
}

/// The jobs of which there may be something that somebody has not heard.
pub(in crate::cli::job) fn jobs_unheard(context: &Context) -> Vec<String> {
    let records = Records::of(context.state_dir());
    let is_left = |job: &String| {
        let record = records.read(job).ok().and_then(|found| found.record);
        let has_whom = |unheard: &Option<Unheard>| unheard.as_ref().is_some_and(|it| !it.whom.is_empty());
        may_be_dead(job, context)
            || record.is_some_and(|record| has_whom(&record.over) || has_whom(&record.killed))
    };
    records.jobs().unwrap_or_default().into_iter().filter(is_left).collect()
}

/// It went well last, and somebody believes that it fails, who could not be told then.
fn over(job: &Job, context: &Context) -> Option<ToTell> {
    let record = read(job, context)?;
    let over = record.over.filter(|over| is_news(over.at))?;
    let last = record.last_run.filter(|last| last.ended == Some(over.at));
    let began = last.map_or(over.at, |last| last.began);
    let news = Message {
        failure: Some(over.why),
        began: format!("{began:.0}"),
        ..message(job, News::Recovery, over.at)
    };
    to_tell(job, news, About::Over, &over.whom, over.at)
}

/// Its last run was killed, and has left nothing to be started: nobody else tells that.
fn killed(job: &Job, context: &Context) -> Option<ToTell> {
    let mut hearers = people(job, News::Failure);
    hearers.extend(job.notify.as_ref().and_then(|notify| notify.ping.as_ref()).map(|_| Hearer::Ping));
    if hearers.is_empty() {
        return None;
    }
    if may_be_dead(&job.name, context) {
        let records = Records::of(context.state_dir());
        change(&job.name, context, |record| {
            // Nobody begins one as long as this is written.
            if matches!(records.is_at_work(&job.name), Ok(false)) {
                record.was_killed(hearers);
            }
        });
    }
    let killed = read(job, context)?.killed.filter(|killed| is_news(killed.at))?;
    let news = Message { failure: Some(killed.why), ..message(job, News::Failure, killed.at) };
    to_tell(job, news, About::Killed, &killed.whom, killed.at)
}

/// Whether the last run of that job did not come to its end, as far as can be seen without waiting, and left nothing to be started, and nobody was told.
fn may_be_dead(job: &str, context: &Context) -> bool {
    let Ok(found) = Records::of(context.state_dir()).read(job) else { return false };
    !found.is_at_work
        && found.record.is_some_and(|record| record.untold().is_some())
        && !Leases::there(context.state_dir()).path(job).exists()
}

fn is_news(at: Timestamp) -> bool {
    Timestamp::now().duration_since(at) < OLD
}

/// Services run again that a run had left stopped, and somebody who is to know has not heard of it.
fn again(job: &Job, context: &Context) -> Option<ToTell> {
    let again = read(job, context)?.again.filter(|again| is_news(again.at))?;
    let Again { at, services, down_ms, why, heard, .. } = again.clone();
    let (message, is_failure) = match again.is_of_killed() {
        true => {
            let text = format!("{}; {services}, which it had left stopped, runs again", why.text);
            let failure = Some(Failure::new(why.class, &text));
            (Message { failure, ..message(job, News::Failure, at) }, true)
        }
        false => {
            let what = Some(format!("has left {services} stopped, which runs again"));
            let failure = Some(why).filter(|why| !why.class.is_empty());
            (Message { failure, what, ..message(job, News::Recovery, at) }, false)
        }
    };
    // That its services run is not that it went well.
    let is_to_hear = |whom: &Hearer| !heard.contains(whom) && (is_failure || *whom != Hearer::Ping);
    let hearers: Vec<_> = Hearer::ALL.into_iter().filter(is_to_hear).collect();
    to_tell(job, Message { downtime_ms: down_ms, ..message }, About::Again, &hearers, at)
}

/// The job's services were down for longer than they may, and its run goes on, which fails of that when it is over: whoever is told now has heard it then. Who can not be told now
/// is told then.
pub(in crate::cli::job) fn resumed(
    job: &Job,
    failure: Failure,
    down: Option<Duration>,
    context: &Context,
) -> Option<ToTell> {
    let now = Timestamp::now();
    let downtime_ms = down.map(super::milliseconds);
    // What hangs may be the disk on which that is.
    let (name, records) = (job.name.clone(), Records::of(context.state_dir()));
    let read = within(Instant::now() + SHORTLY, move || records.read(&name).ok()?.record);
    let record = read().flatten();
    let is_news = |whom: &Channel| record.as_ref().is_none_or(|it| it.is_news(*whom, now, Some(&failure)));
    let hearers: Vec<_> =
        Channel::ALL.into_iter().filter(is_news).map(hearer).chain([Hearer::Ping]).collect();
    let news = Message { failure: Some(failure.clone()), downtime_ms, ..message(job, News::Failure, now) };
    to_tell(job, news, About::Resumed, &hearers, now)
}

fn read(job: &Job, context: &Context) -> Option<JobRecord> {
    Records::of(context.state_dir()).read(&job.name).ok()?.record
}

fn message(job: &Job, news: News, at: Timestamp) -> Message {
    Message {
        job: job.name.clone(),
        host: notify::host(),
        news,
        failure: None,
        began: format!("{at:.0}"),
        ended: format!("{at:.0}"),
        seconds: 0.0,
        bytes: 0,
        downtime_ms: None,
        max_downtime_ms: job
            .quiesce
            .as_ref()
            .and_then(|quiesce| quiesce.max_downtime)
            .map(super::milliseconds),
        what: None,
    }
}

/// For those of the hearers whom the job names; `None` if that is nobody.
fn to_tell(job: &Job, message: Message, about: About, hearers: &[Hearer], at: Timestamp) -> Option<ToTell> {
    let notify = job.notify.clone()?;
    let named = people(job, message.news);
    let is_to_hear = |whom: &Channel| named.contains(&hearer(*whom)) && hearers.contains(&hearer(*whom));
    let people: Vec<_> = Channel::ALL.into_iter().filter(is_to_hear).collect();
    let pings = notify.ping.is_some() && hearers.contains(&Hearer::Ping);
    if people.is_empty() && !pings {
        return None;
    }
    Some(ToTell { job: job.name.clone(), notify, starting: None, message, at, people, pings, about })
}

/// Those who read, of whom the job wants that they hear such news.
pub(super) fn people(job: &Job, news: News) -> Vec<Hearer> {
    let Some(notify) = job.notify.as_ref().filter(|notify| super::is_wanted(notify, news)) else {
        return Vec::new();
    };
    let is_named = |whom: &Channel| match whom {
        Channel::Command => notify.command.is_some(),
        Channel::Mail => notify.mail.is_some(),
    };
    Channel::ALL.into_iter().filter(is_named).map(hearer).collect()
}

fn hearer(whom: Channel) -> Hearer {
    match whom {
        Channel::Command => Hearer::Command,
        Channel::Mail => Hearer::Mail,
    }
}

impl ToTell {
    fn is_for(&self, whom: Hearer) -> bool {
        match whom {
            Hearer::Ping => self.pings,
            Hearer::Hook => false,
            _ => self.people.iter().any(|&one| hearer(one) == whom),
        }
    }
}

/// What is left to be told of it, by nobody else from now on. Whoever has heard it meanwhile, or is being told, is not told twice.
pub(super) fn claimed(mut news: ToTell, context: &Context) -> Option<ToTell> {
    let is_of_run = news.about == About::Run;
    if is_of_run && news.message.news != News::Recovery || news.about == About::Resumed {
        return Some(news);
    }
    let now = Timestamp::now();
    // Where nothing can be written down, that is told twice rather than never which is told once a minute at most.
    let mut hearers = match news.about {
        About::Run | About::Op(_) | About::Resumed => Hearer::ALL.to_vec(),
        About::Again | About::Over | About::Killed => Vec::new(),
    };
    let is_written = change(&news.job, context, |record| {
        hearers = who_is_left(record, &news, now);
        hearers.retain(|&whom| news.is_for(whom));
        if !hearers.is_empty() && !claim(record, &news, now) {
            hearers.clear();
        }
    });
    if is_of_run && !is_written {
        return Some(news);
    }
    news.people.retain(|&whom| hearers.contains(&hearer(whom)));
    // Of each run that is over there is one ping.
    news.pings &= is_of_run || hearers.contains(&Hearer::Ping);
    (is_of_run || news.pings || !news.people.is_empty()).then_some(news)
}

/// Who has not heard it.
fn who_is_left(record: &JobRecord, news: &ToTell, now: Timestamp) -> Vec<Hearer> {
    let all = || Hearer::ALL.to_vec();
    match (news.about, news.message.news) {
        (About::Resumed, _) => all(),
        (About::Run | About::Over, _) => {
            let over = record.over.as_ref().filter(|over| over.at == news.at);
            over.map(|over| over.whom.clone()).unwrap_or_default()
        }
        (About::Killed, _) => {
            let killed = record.killed.as_ref().filter(|killed| killed.at == news.at);
            killed.map(|killed| killed.whom.clone()).unwrap_or_default()
        }
        (About::Again, _) => {
            let again = record.again.as_ref().filter(|again| again.at == news.at);
            let is_left =
                |again: &Again| all().into_iter().filter(|whom| !again.heard.contains(whom)).collect();
            again.map(is_left).unwrap_or_default()
        }
        (About::Op(op), News::Failure) => {
            let class = news.message.failure.as_ref().map_or("", |failure| &failure.class);
            record.who_is_to_hear(&Subject::of_job(op), class, now)
        }
        (About::Op(op), _) => record.tally(&Subject::of_job(op)).map(Tally::who_believes).unwrap_or_default(),
    }
}

/// Whether nobody else is about to tell it.
fn claim(record: &mut JobRecord, news: &ToTell, now: Timestamp) -> bool {
    match news.about {
        About::Resumed => true,
        About::Run | About::Over => record.over.as_mut().is_some_and(|over| over.claim(now)),
        About::Killed => record.killed.as_mut().is_some_and(|killed| killed.claim(now)),
        About::Again => record.again.as_mut().is_some_and(|again| again.claim(now)),
        About::Op(op) => record.claim(&Subject::of_job(op), now),
    }
}

/// Writes down who has heard what, and that nobody is at telling it any more.
pub(super) fn was_heard(
    job: &str,
    about: About,
    message: &Message,
    heard: &Heard,
    at: Timestamp,
    context: &Context,
) {
    let mut hearers: Vec<_> = heard.told.iter().map(|&whom| hearer(whom)).collect();
    hearers.extend(heard.pinged.then_some(Hearer::Ping));
    let class = message.failure.as_ref().map_or("", |failure| &failure.class);
    change(job, context, |record| match (about, message.news) {
        // If its run is over meanwhile, that one has told it, too: twice is better than never.
        (About::Resumed, _) => {
            heard.told.iter().for_each(|&whom| record.was_told(whom, at, message.failure.as_ref()));
        }
        (About::Run | About::Over, _) => record.was_heard_over(at, &hearers),
        (About::Killed, _) => record.was_heard_killed(at, &hearers),
        (About::Again, _) => {
            if let Some(again) = record.again.as_mut().filter(|again| again.at == at) {
                again.heard.extend(hearers);
                again.claimed = None;
            }
        }
        (About::Op(op), news) => {
            let subject = Subject::of_job(op);
            record.release(&subject);
            match news {
                News::Failure => {
                    hearers.iter().for_each(|&whom| record.was_said(&subject, whom, class, at));
                }
                _ => record.was_said_over(&subject, &hearers),
            }
        }
    });
}
