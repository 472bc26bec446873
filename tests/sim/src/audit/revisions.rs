//! Of windows that are run again: why, when and by which plan.

use std::collections::BTreeMap;

use bytes::Bytes;
use windrow_ports::meta::Event;
use windrow_protocol::marker::Marker;
use windrow_protocol::plan::{FinishPlan, Part, Plan};
use windrow_protocol::revise::WishId;
use windrow_protocol::state::{BatchRecord, Task, keys};
use windrow_protocol::{JobName, Revision, paths};

use super::{Checked, Seen, must, parse};

const WISHES: &str = "/windrow/v1/revisions/";

fn key_of(event: &Event) -> &str {
    match event {
        Event::Put(item) => &item.key,
        Event::Delete { key, .. } => key,
    }
}

/// A revision comes with the wish that it belongs to, which wants its window and has not had it yet; of what stands, it
/// takes over what it must; and nothing of what stands can be published any more.
pub fn planned(seen: &Seen, batch: &BatchRecord, events: &[Event]) -> Checked {
    let (id, name) = (&batch.id, format!("revision {}", batch.id));
    let is_newest = |part: Part| {
        let path = |revision| paths::marker(&id.job, id.window, part, Revision(revision));
        (0..id.revision.0).rev().find(|n| seen.objects.contains_key(&path(*n))).map(Revision)
    };
    let plan = match &batch.task {
        Task::Map(plan) => plan,
        Task::Finish(_) => {
            let newest = is_newest(Part::Finish).unwrap_or_default();
            must!(newest.next() == id.revision, "{name} follows {newest}");
            return Ok(());
        }
    };
    let Some(revises) = &plan.revises else { return Err(format!("{name} does not say what it revises")) };
    let wish_key = keys::wish(&id.job, &revises.cause);
    must!(events.iter().any(|event| key_of(event) == wish_key), "{name} leaves its wish as it was");
    let Some(wish) = seen.wishes.get(&wish_key) else { return Err(format!("{name} was wished by nobody")) };
    let wanted = wish.spans.iter().any(|span| span.from <= plan.window.start && plan.window.end <= span.until);
    must!(wanted && wish.next <= plan.window.start, "{name} is not what {wish:?} wants");
    if let Some(late) = wish.offsets.get(&plan.partition) {
        let read = plan.more().iter().any(|range| range.start <= late.start && late.end <= range.end);
        must!(read, "{name} does not read the late readings at {late}: {:?}", plan.more());
    }
    let newest = is_newest(id.part);
    must!(newest == revises.base, "{name} revises {:?}, but {newest:?} stands", revises.base);
    let Some(base) = newest else {
        must!(plan.owned.is_empty(), "{name} owns {} of a window that it had nothing in", plan.owned);
        return Ok(());
    };
    let Some(base) = seen.files.maps.get(&paths::marker(&id.job, id.window, id.part, base)) else {
        return Err(format!("{name} revises a marker that never was"));
    };
    takes_over(&name, plan, base)?;
    let staged = base.files.iter().find(|file| seen.objects.contains_key(&file.staged));
    must!(staged.is_none(), "{name} is planned while {staged:?} can still be published");
    Ok(())
}

fn takes_over(name: &str, plan: &Plan, base: &Marker) -> Checked {
    let same = plan.read == base.plan.read && plan.owned == base.plan.owned && plan.topic_id == base.plan.topic_id;
    must!(same, "{name} is {plan:?}, but {:?} stands", base.plan);
    let kept =
        base.plan.more().iter().all(|range| plan.ranges().any(|it| it.start <= range.start && range.end <= it.end));
    must!(kept, "{name} forgets late readings that {:?} has taken in", base.plan);
    Ok(())
}

/// What a window's batches have met late is wished for in the moment in which they go.
pub fn told(seen: &Seen, job: &str, plan: &FinishPlan, puts: &BTreeMap<&str, &Bytes>) -> Checked {
    let job = JobName::new(job).map_err(|error| error.to_string())?;
    let window = plan.window.id();
    let key = keys::wish(&job, &WishId::Late(window));
    let marker = |partition| paths::marker(&job, window, Part::Partition(partition), Revision(0));
    let met = plan.partitions.iter().filter_map(|partition| seen.files.maps.get(&marker(*partition)));
    let met = plan.revision == Revision(0) && met.into_iter().any(|marker| marker.amends.is_some());
    must!(!met || puts.contains_key(key.as_str()), "{job}/{window} goes without a wish for what it has met late");
    Ok(())
}

/// Wishes are made once, by windows that leave, and go when all that they want is planned.
pub fn wishes(seen: &mut Seen, events: &[Event]) -> Checked {
    for event in events.iter().filter(|event| key_of(event).starts_with(WISHES)) {
        let key = key_of(event);
        let before = seen.wishes.remove(key);
        match (event, before) {
            (Event::Put(item), before) => {
                let wish: windrow_protocol::revise::Wish = parse(&item.value)?;
                let made_by = key.replace("/revisions/", "/batches/").replace("/late-", "/") + "/finish";
                let leaves = events.iter().any(|event| matches!(event, Event::Delete { key, .. } if *key == made_by));
                let first = !matches!(seen.tasks.get(&made_by), Some(task) if task.revision() > Revision(0));
                match before {
                    None => must!(leaves && first, "{key} is wished for by nothing that leaves"),
                    Some(before) => must!(before.next <= wish.next, "{key} goes back to {}", wish.next),
                }
                seen.wishes.insert(key.to_owned(), wish);
            }
            // The last of its windows is planned by the same transaction.
            (Event::Delete { .. }, Some(before)) => {
                let last = before.spans.last().map(|span| span.until);
                let planned = events.iter().any(|event| match event {
                    Event::Put(item) => parse::<BatchRecord>(&item.value).is_ok_and(|batch| match batch.task {
                        Task::Finish(plan) => Some(plan.window.end) == last && plan.revision > Revision(0),
                        Task::Map(_) => false,
                    }),
                    Event::Delete { .. } => false,
                });
                must!(planned, "{key} goes before all that it wants is planned: {before:?}");
            }
            (Event::Delete { .. }, None) => return Err(format!("{key} goes without having been there")),
        }
    }
    Ok(())
}
