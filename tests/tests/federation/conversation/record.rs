//! The record of what everybody got, held against what was said and against who was in the group when it was.

use std::collections::{HashMap, HashSet};

use openmls::prelude::{ContentType, MlsMessageIn, ProtocolMessage};
use postern_client::Event;
use postern_protocol::{
    MlsMessage,
    qs::{QueueKind, QueuePayload},
};
use tls_codec::Deserialize as _;

use super::{COMMITS, Conversation, DOMAINS, RESIDENTS, TURNS, visit};

/// Something that a person was told. People are numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// Somebody said something, in this epoch.
    Text { by: usize, epoch: u64, text: String },
    /// Somebody came in, with this epoch.
    In { who: usize, epoch: u64 },
    /// Somebody was removed or left, with this epoch and by a commit of this member.
    Out { who: usize, epoch: u64, by: usize },
    /// The person itself came in.
    Joined,
}

impl Told {
    /// A text with its sender and epoch.
    fn text(&self) -> Option<(usize, u64, &str)> {
        match self {
            Self::Text { by, epoch, text } => Some((*by, *epoch, text)),
            _ => None,
        }
    }
}

/// A guest's membership.
#[derive(Debug)]
struct Stay {
    /// Its first epoch.
    since: u64,
    end: Option<End>,
}

/// The end of a membership.
#[derive(Debug)]
struct End {
    /// The last epoch.
    epoch: u64,
    /// The member whose commit made an end of it.
    by: usize,
}

/// A guest's stay, and what came to its queue meanwhile.
struct Received<'a> {
    guest: usize,
    stay: &'a Stay,
    messages: &'a [MlsMessage],
    set: HashSet<&'a MlsMessage>,
}

/// The messages that came to a resident's queue, and the first place of each there.
struct Queue<'a> {
    messages: &'a [MlsMessage],
    places: HashMap<&'a MlsMessage, usize>,
}

impl<'a> Queue<'a> {
    fn of(messages: &'a [MlsMessage]) -> Self {
        let mut places = HashMap::new();
        for (place, message) in messages.iter().enumerate() {
            places.entry(message).or_insert(place);
        }
        Self { messages, places }
    }
}

impl<'a> Received<'a> {
    /// The commit that made an end of the stay: the last message of it.
    fn last(&self) -> Option<&'a MlsMessage> {
        let end = self.stay.end.as_ref()?;
        let last = self.messages.last().expect("a guest hears of its end");
        let parsed = parsed(last);
        assert_eq!(parsed.content_type(), ContentType::Commit, "guest {}: the last message", self.guest);
        assert_eq!(parsed.epoch().as_u64(), end.epoch, "guest {}: the last message", self.guest);
        Some(last)
    }

    /// Whether a message of an epoch was for the guest: not those of an epoch before it came in, however late they were
    /// accepted, and none that was accepted after the end.
    fn is_due(&self, message: &MlsMessage, epoch: u64, residents: &[Queue<'_>]) -> bool {
        let Some(last) = self.last() else { return epoch >= self.stay.since };
        let is_before = |queue: &Queue<'_>| Some(queue.places.get(message)? <= queue.places.get(last)?);
        let is_before = residents.iter().find_map(is_before).expect("most residents have both");
        epoch >= self.stay.since && is_before
    }
}

fn parsed(message: &MlsMessage) -> ProtocolMessage {
    let parsed = MlsMessageIn::tls_deserialize_exact(message.as_bytes()).expect("it is an MLSMessage");
    parsed.try_into_protocol_message().expect("it is a message of a group")
}

impl Conversation {
    /// Holds everyone's queue, as it was delivered and as it was understood, against what was said and against the others.
    pub fn check(&self) {
        let told: Vec<_> = (0..self.people.len()).map(|person| self.told(person)).collect();
        let is_change = |told: &&Told| matches!(told, Told::In { .. } | Told::Out { .. });
        let changes: Vec<Told> = told[0].iter().filter(is_change).cloned().collect();
        for (resident, told) in told[..RESIDENTS].iter().enumerate() {
            assert!(told.iter().filter(is_change).eq(&changes), "{resident} heard of other changes");
        }
        let stays: Vec<_> = (0..DOMAINS).map(|domain| self.stays(domain, &changes)).collect();
        self.check_queues(&stays);
        self.check_words(&told);
        for (domain, stays) in stays.iter().enumerate() {
            check_hearing(RESIDENTS + domain, stays, &told);
        }
        self.check_members();
    }

    /// The stays of a domain's guest, from the beginning on.
    fn stays(&self, domain: usize, changes: &[Told]) -> Vec<Stay> {
        let guest = RESIDENTS + domain;
        let mut stays = vec![Stay { since: self.epoch, end: None }];
        for change in changes {
            match change {
                Told::In { who, epoch } if *who == guest => stays.push(Stay { since: *epoch, end: None }),
                Told::Out { who, epoch, by } if *who == guest => {
                    let stay = stays.last_mut().expect("there is one");
                    let end = stay.end.replace(End { epoch: epoch - 1, by: *by });
                    assert!(end.is_none(), "guest {domain} was removed twice: {changes:?}");
                }
                _ => {}
            }
        }
        let came_in = TURNS[domain].iter().filter(|turn| **turn == visit::Turn::In).count();
        assert_eq!(stays.len(), 1 + came_in, "guest {domain} came in: {changes:?}");
        let last = stays.last().expect("there is one");
        assert_eq!(last.end.is_none(), visit::stays(domain), "guest {domain} is in: {changes:?}");
        stays
    }

    /// A message that the DS accepted once is once in the queues of all that were members in its epoch, and still were when it
    /// was accepted, but its sender's; and in the same order. A client that got no answer sends it again, and members know
    /// the repeat: it may be accepted twice, and is then in all of them twice.
    fn check_queues(&self, stays: &[Vec<Stay>]) {
        let queues: Vec<Vec<MlsMessage>> = (0..RESIDENTS).map(|person| self.resident_queue(person)).collect();
        let residents: Vec<_> = queues.iter().map(|queue| Queue::of(queue)).collect();
        let guests: Vec<Vec<Vec<MlsMessage>>> =
            (0..DOMAINS).map(|domain| self.queue_by_stays(RESIDENTS + domain)).collect();
        let mut received = Vec::new();
        for (domain, (stays, queues)) in stays.iter().zip(&guests).enumerate() {
            let guest = RESIDENTS + domain;
            assert_eq!(stays.len(), queues.len(), "guest {domain} got another number of Welcomes");
            for (stay, messages) in stays.iter().zip(queues) {
                received.push(Received { guest, stay, messages, set: messages.iter().collect() });
            }
        }
        for (one, queue) in residents.iter().enumerate() {
            for (other, theirs) in residents.iter().enumerate() {
                let shared = queue.messages.iter().filter(|message| theirs.places.contains_key(message));
                let by_them = theirs.messages.iter().filter(|message| queue.places.contains_key(message));
                assert!(shared.eq(by_them), "the queues of {one} and {other} differ");
            }
        }
        let all = residents.iter().flat_map(|queue| queue.places.keys().copied());
        let all: HashSet<&MlsMessage> =
            all.chain(received.iter().flat_map(|received| received.set.iter().copied())).collect();
        for message in &all {
            self.check_recipients(message, &residents, &received);
        }
        for received in &received {
            check_order(received, &residents);
        }
        let repeats = residents.iter().map(|queue| queue.messages.len() - queue.places.len()).max();
        eprintln!("{} messages, {} repeats at most", all.len(), repeats.unwrap_or_default());
    }

    /// All for whom a message was have it but one, who sent it, and nobody else has.
    fn check_recipients(&self, message: &MlsMessage, residents: &[Queue<'_>], received: &[Received<'_>]) {
        let parsed = parsed(message);
        let (epoch, content) = (parsed.epoch().as_u64(), parsed.content_type());
        let what = format!("{content:?} of epoch {epoch}, {} epochs after the first", epoch - self.epoch);
        let lacks = |(_, queue): &(usize, &Queue<'_>)| !queue.places.contains_key(message);
        let lacking = residents.iter().enumerate().filter(lacks);
        let mut lacking: Vec<usize> = lacking.map(|(resident, _)| resident).collect();
        assert!(lacking.len() <= 1, "{what}: these lack it: {lacking:?}");
        for received in received {
            let has_it = received.set.contains(message);
            let is_due = received.is_due(message, epoch, residents);
            assert!(is_due || !has_it, "{what}: {} has it, and it is for others", received.guest);
            if is_due && !has_it {
                lacking.push(received.guest);
            }
        }
        assert_eq!(lacking.len(), 1, "{what}: these lack it, one of whom sent it: {lacking:?}");
    }

    /// The messages that came to a resident's queue since the beginning.
    fn resident_queue(&self, person: usize) -> Vec<MlsMessage> {
        let mut parts = self.queue_by_stays(person);
        assert_eq!(parts.len(), 1, "{person} joined again");
        parts.remove(0)
    }

    /// The messages that came to a queue since the beginning, in one part for each stay, between which are the Welcomes.
    fn queue_by_stays(&self, person: usize) -> Vec<Vec<MlsMessage>> {
        let person = &self.people[person];
        let deliveries = person.client.deliveries(QueueKind::Group).expect("deliveries can be read");
        let seqs = deliveries.iter().map(|(seq, _)| *seq);
        assert!(seqs.eq(1..=deliveries.len() as u64), "sequence numbers count from 1 without gaps");
        let mut parts = vec![Vec::new()];
        for (_, payload) in deliveries.into_iter().filter(|(seq, _)| *seq > person.begun) {
            match payload {
                QueuePayload::Message(message) => parts.last_mut().expect("there is one").push(message),
                QueuePayload::Welcome(_) => parts.push(Vec::new()),
                other => panic!("{}: nothing is lost: {other:?}", person.client.user()),
            }
        }
        parts
    }

    /// The texts that people said, as the residents heard them: once, in order, and for all residents in one order. Of a guest
    /// that was removed, what it was told was not sent may be missing.
    fn check_words(&self, told: &[Vec<Told>]) {
        let texts = |listener: usize| {
            let texts = told[listener].iter().filter_map(Told::text);
            texts.map(|(by, _, text)| (by, text))
        };
        for (speaker, person) in self.people.iter().enumerate() {
            let refused = self.refused(speaker);
            assert!(speaker >= RESIDENTS || refused.is_empty(), "{speaker}: {refused:?}");
            for listener in (0..RESIDENTS).filter(|listener| *listener != speaker) {
                let what = format!("what {speaker} said, as {listener} heard it");
                let heard: Vec<_> = texts(listener).filter(|(by, _)| *by == speaker).collect();
                let mut said = person.words.said.iter();
                for (_, text) in &heard {
                    assert!(said.any(|said| said == text), "{what}: {text} is another time or place");
                }
                let heard: HashSet<_> = heard.into_iter().map(|(_, text)| text).collect();
                for text in person.words.said.iter().filter(|text| !refused.contains(*text)) {
                    assert!(heard.contains(text.as_str()), "{what}: {text} is missing");
                }
            }
        }
        for one in 0..RESIDENTS {
            for other in 0..RESIDENTS {
                let is_others = |(by, _): &(usize, &str)| ![one, other].contains(by);
                let (of_one, of_other) = (texts(one).filter(is_others), texts(other).filter(is_others));
                assert!(of_one.eq(of_other), "{one} and {other} heard another order");
            }
        }
    }

    /// The texts of a person that may not have been sent, as it was told.
    fn refused(&self, person: usize) -> HashSet<String> {
        let person = &self.people[person];
        let events = person.client.pending_events().expect("events can be read").into_iter();
        let unsent = events.filter_map(|(_, event)| match event {
            Event::Unsent { text, .. } => Some(text),
            _ => None,
        });
        unsent.chain(person.words.refused.iter().cloned()).collect()
    }

    /// All who are in are in one epoch, with the same members, and these are the residents and the guests that stay.
    fn check_members(&self) {
        let (epoch, members) = (self.epoch_of(0), self.members_of(0));
        let guests = (0..DOMAINS).filter(|domain| visit::stays(*domain)).count();
        assert_eq!(members.len(), RESIDENTS + guests);
        for person in 0..self.people.len() {
            let stays = person < RESIDENTS || visit::stays(person - RESIDENTS);
            assert_eq!(self.is_in(person), stays, "whether {person} is in");
            if stays {
                assert_eq!(self.epoch_of(person), epoch, "{person} is in another epoch");
                assert_eq!(self.members_of(person), members, "{person} knows other members");
            }
        }
        let commits = epoch - self.epoch;
        assert!(commits >= COMMITS, "few commits were accepted: {commits}");
        eprintln!("{commits} commits");
    }

    /// The things that a person was told, in their order. Nothing else happened but that members renewed their keys; and a
    /// guest that comes in learns the title, and one that is out hears of that, and which texts were not sent.
    fn told(&self, person: usize) -> Vec<Told> {
        let is_guest = person >= RESIDENTS;
        let client = &self.people[person].client;
        let mut told = Vec::new();
        for (_, event) in client.pending_events().expect("events can be read") {
            match event {
                Event::Message { epoch, sender, text, .. } => {
                    told.push(Told::Text { by: self.who(&sender.leaf_key), epoch, text });
                }
                Event::Added { epoch, members, .. } => {
                    let who = members.iter().map(|member| self.who(&member.leaf_key));
                    told.extend(who.map(|who| Told::In { who, epoch }));
                }
                Event::Removed { epoch, by, members, .. } => {
                    let by = self.who(&by.leaf_key);
                    let who = members.iter().map(|member| self.who(&member.leaf_key));
                    told.extend(who.map(|who| Told::Out { who, epoch, by }));
                }
                Event::Joined { .. } if is_guest => told.push(Told::Joined),
                Event::Updated { .. } => {}
                Event::Left { .. } | Event::Titled { .. } | Event::Unsent { .. } if is_guest => {}
                other => panic!("{}: {other:?}, after {told:?}", client.user()),
            }
        }
        told
    }
}

/// In each stay a guest heard what the residents heard of its epochs, but for what each of those did not hear, having said
/// it. The resident who made an end of the stay does not know the place of that among what others said. A text whose answer
/// was lost may have been accepted before the guest came in, and once more after that: the residents know the repeat, and
/// only the guest hears it in its own epochs.
fn check_hearing(guest: usize, stays: &[Stay], told: &[Vec<Told>]) {
    let parts: Vec<&[Told]> = told[guest].split(|told| *told == Told::Joined).collect();
    assert_eq!(parts.len(), stays.len(), "{guest} joined another number of times");
    for (stay, heard) in stays.iter().zip(parts) {
        let early = heard.iter().filter_map(Told::text).find(|(_, epoch, _)| *epoch < stay.since);
        assert!(early.is_none(), "{guest} read a text of before its stay {stay:?}: {early:?}");
        let is_end = |told: &Told| match (told, &stay.end) {
            (Told::Out { who, epoch, .. }, Some(end)) => *who == guest && *epoch == end.epoch + 1,
            _ => false,
        };
        for (resident, told) in told[..RESIDENTS].iter().enumerate() {
            if stay.end.as_ref().is_some_and(|end| end.by == resident) {
                continue;
            }
            let until = told.iter().take_while(|told| !is_end(told)).filter_map(Told::text);
            let (theirs, before): (Vec<_>, Vec<_>) = until.partition(|(_, epoch, _)| *epoch >= stay.since);
            let theirs = theirs.into_iter().filter(|(by, ..)| *by != guest).map(|(by, _, text)| (by, text));
            let before: HashSet<_> = before.into_iter().map(|(by, _, text)| (by, text)).collect();
            let heard = heard.iter().filter_map(Told::text).filter(|(by, ..)| *by != resident);
            let heard = heard.map(|(by, _, text)| (by, text)).filter(|text| !before.contains(text));
            let (theirs, heard): (Vec<_>, Vec<_>) = (theirs.collect(), heard.collect());
            let alike = heard.iter().zip(&theirs).take_while(|(heard, theirs)| heard == theirs).count();
            let next = |texts: &[(usize, &str)]| format!("{:?}", &texts[alike..texts.len().min(alike + 5)]);
            assert!(
                heard == theirs,
                "in the stay {stay:?} of {} and {} texts, after {alike} of them, {guest} heard {}, and {resident} {}",
                heard.len(),
                theirs.len(),
                next(&heard),
                next(&theirs)
            );
        }
    }
}

/// A guest got what it got in the order in which each resident did, as far as that one got it, too; with a repeat as often,
/// unless it came after the guest was out.
fn check_order(received: &Received<'_>, residents: &[Queue<'_>]) {
    for (resident, queue) in residents.iter().enumerate() {
        let theirs = match received.last().map(|last| queue.places.get(last)) {
            None => queue.messages,
            Some(Some(place)) => &queue.messages[..=*place],
            // The resident made that commit, and does not have it.
            Some(None) => continue,
        };
        let shared = received.messages.iter().filter(|message| queue.places.contains_key(message));
        let by_them = theirs.iter().filter(|message| received.set.contains(message));
        let guest = received.guest;
        assert!(shared.eq(by_them), "the queues of {guest} and {resident} differ: {:?}", received.stay);
    }
}
