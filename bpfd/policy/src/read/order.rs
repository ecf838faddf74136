//! `[[order]]`: its text, and the orders of all files, which hold together or not at all. Must never place anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;

use super::rule::{Known, each, word};
use super::{FileText, PolicyError, PolicyFault, PolicyText};
use crate::name::Name;
use crate::order::{Before, Chains, KINDS, MEMBERS_MAX, Member, ORDERS_MAX, Order, Said, contradiction};
use crate::rule::{Direction, Interfaces};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, as `[[order]]` begins one")]
pub(super) struct OrderText {
    id: Spanned<String>,
    chain: ChainText,
    #[serde(default)]
    first: Vec<Spanned<String>>,
    #[serde(default)]
    last: Vec<Spanned<String>>,
    #[serde(default)]
    before: Vec<Spanned<BeforeText>>,
    #[serde(default)]
    strict: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { kinds = [\"xdp\"], interfaces = [\"eth*\"] }")]
struct ChainText {
    kinds: Option<Spanned<Vec<Spanned<String>>>>,
    interfaces: Spanned<Vec<Spanned<String>>>,
    netns: Option<Vec<Spanned<String>>>,
    directions: Option<BTreeSet<Direction>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { app = \"ids\", than = \"lb\" }")]
struct BeforeText {
    app: Spanned<String>,
    than: Spanned<String>,
}

/// The orders of all files.
pub(super) fn read(files: &[(&PolicyText<'_>, FileText)], known: &Known<'_>) -> Result<Vec<Order>, PolicyError> {
    let texts = files.iter().flat_map(|(file, text)| text.order.iter().map(move |text| (*file, text)));
    let texts: Vec<(&PolicyText<'_>, &OrderText)> = texts.collect();
    let mut orders: Vec<Order> = vec![];
    let mut places: BTreeMap<Name, &str> = BTreeMap::new();
    for (file, text) in &texts {
        let order = text.read(file, known)?;
        let here = |fault| file.fault(text.id.span().start, fault);
        if let Some(other) = places.insert(order.id.clone(), file.file) {
            return Err(here(PolicyFault::OrderTwice { id: order.id, other: other.to_owned() }));
        }
        orders.push(order);
        if orders.len() > ORDERS_MAX {
            return Err(here(PolicyFault::TooMany { what: "orders", found: texts.len(), limit: ORDERS_MAX }));
        }
    }
    let said: Vec<Said<'_>> = orders.iter().zip(&texts).map(|(order, (file, text))| text.said(file, order)).collect();
    match contradiction(&said) {
        None => Ok(orders),
        Some(found) => {
            let (file, line, column) = (found.last.place.file.clone(), found.last.place.line, found.last.place.column);
            Err(PolicyError { file, line, column, fault: PolicyFault::Orders(Box::new(found)) })
        }
    }
}

impl OrderText {
    fn read(&self, file: &PolicyText<'_>, known: &Known<'_>) -> Result<Order, PolicyError> {
        let Self { id, chain, first, last, before, strict } = self;
        let here = |fault| file.fault(id.span().start, fault);
        let name: Name = id.get_ref().parse().map_err(|not| here(PolicyFault::OrderId(not)))?;
        let found = first.len() + last.len() + 2 * before.len();
        match found {
            0 => return Err(here(PolicyFault::OrdersNothing)),
            1..=MEMBERS_MAX => {}
            _ => {
                let (what, limit) = ("members of an order", MEMBERS_MAX);
                return Err(here(PolicyFault::TooMany { what, found, limit }));
            }
        }
        let pair = |text: &Spanned<BeforeText>| {
            let BeforeText { app, than } = text.get_ref();
            let (app, than_place) = (member(file, app, known)?, than.span().start);
            let than = member(file, than, known)?;
            match app == than {
                true => Err(file.fault(than_place, PolicyFault::MemberTwice(than.to_string()))),
                false => Ok(Before { app, than }),
            }
        };
        Ok(Order {
            id: name,
            chain: chain.read(file)?,
            first: members(file, first, known)?,
            last: members(file, last, known)?,
            before: before.iter().map(pair).collect::<Result<_, _>>()?,
            strict: *strict,
        })
    }

    fn said<'a>(&self, file: &PolicyText<'_>, order: &'a Order) -> Said<'a> {
        let places = |list: &[Spanned<String>]| list.iter().map(|text| file.place(text.span().start)).collect();
        let before = self.before.iter().map(|text| file.place(text.span().start));
        Said { order, first: places(&self.first), before: before.collect(), last: places(&self.last) }
    }
}

impl ChainText {
    fn read(&self, file: &PolicyText<'_>) -> Result<Chains, PolicyError> {
        let Self { kinds, interfaces, netns, directions } = self;
        let empty = |list: &Spanned<Vec<Spanned<String>>>, key| match list.get_ref().is_empty() {
            true => Err(file.fault(list.span().start, PolicyFault::EmptyList(key))),
            false => Ok(()),
        };
        empty(interfaces, "interfaces")?;
        kinds.iter().try_for_each(|kinds| empty(kinds, "kinds"))?;
        let kind = |text: &Spanned<String>| word(file, "kind of hook with a chain", text, KINDS);
        let kinds = kinds.as_ref().map(|kinds| kinds.get_ref().iter().map(kind).collect::<Result<_, _>>());
        Ok(Chains {
            kinds: kinds.transpose()?,
            interfaces: Interfaces {
                names: Some(each(file, interfaces.get_ref(), PolicyFault::Glob)?),
                netns: netns.as_ref().map(|list| each(file, list, PolicyFault::Glob)).transpose()?,
                directions: directions.clone(),
            },
        })
    }
}

fn members(file: &PolicyText<'_>, list: &[Spanned<String>], known: &Known<'_>) -> Result<Vec<Member>, PolicyError> {
    let mut members: Vec<Member> = vec![];
    for text in list {
        let member = member(file, text, known)?;
        if members.contains(&member) {
            return Err(file.fault(text.span().start, PolicyFault::MemberTwice(member.to_string())));
        }
        members.push(member);
    }
    Ok(members)
}

fn member(file: &PolicyText<'_>, text: &Spanned<String>, known: &Known<'_>) -> Result<Member, PolicyError> {
    let here = |fault| file.fault(text.span().start, fault);
    let word = text.get_ref().as_str();
    if let Some(name) = word.strip_prefix("signer:") {
        return match known.signers.get_key_value(name) {
            Some((name, _)) => Ok(Member::Signer(name.clone())),
            None => Err(here(PolicyFault::unknown_signer(name, known.signers))),
        };
    }
    match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(Member::Label(key.to_owned(), value.to_owned())),
        Some(_) | None => word.parse().map(Member::App).map_err(|not| here(PolicyFault::OrderMember(not))),
    }
}
