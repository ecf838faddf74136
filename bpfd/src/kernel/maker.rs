//! Makes what a plan needs and the verifier must see, on any thread: copies for slots, fused programs, apps whose pins are gone. All of
//! it is held by descriptors: killed, the process leaves nothing of it.
//!
//! It must never pin or attach.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bpfd_core::ident::AppUid;
use bpfd_core::kernel::{Member, Need, Recipe, StepError};
use ebpf::line_info::LineTable;

use super::chain::alone;
use super::chain::fused;
use super::chain::generation::Built;
use super::chain::libxdp::copy::{self, BuiltCopy};
use super::chain::libxdp::load::template;
use super::pins::Pins;
use super::prepare::{AppCode, Codes, Loader, StagedApp};
use super::{Objects, app, failed};
use crate::worker::Workers;
use crate::worker::parse::{self, ParseError};

/// See the module.
pub(crate) struct Maker {
    pub(super) pins: Arc<Pins>,
    pub(super) workers: Workers,
    pub(super) loader: Loader,
    pub(super) objects: Objects,
    /// The code of apps that is at hand, of those not pinned yet too.
    pub(super) codes: Codes,
}

/// What a need was made into.
#[derive(Clone, Debug)]
pub struct Made {
    pub(super) what: What,
    /// The code of the apps that it is made of.
    pub(super) codes: Codes,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Copy(Arc<BuiltCopy>),
    Generation(Arc<Built>),
    App(StagedApp),
}

impl Maker {
    /// Takes as long as the verifier does.
    pub(super) fn make(self, need: &Need) -> Result<Made, StepError> {
        let objects = self.objects.clone();
        self.made(need).map_err(|error| located(error, need, &objects))
    }

    fn made(mut self, need: &Need) -> Result<Made, StepError> {
        let what = match need {
            Need::Copy { members, recipes } => {
                self.open_all(members, recipes)?;
                What::Copy(Arc::new(copy::build(&template()?, members, &self.codes)?))
            }
            Need::Generation { generation, chain, members, recipes, room } => {
                self.open_all(members, recipes)?;
                let built = match members.as_slice() {
                    [member] => alone::build(*generation, *chain, member, *room, &self.codes),
                    _ => fused::build(*generation, *chain, members, *room, &self.codes),
                };
                What::Generation(Arc::new(built?))
            }
            Need::App { app: _, recipe } => {
                let lent = self.lent(recipe)?;
                What::App(self.loader.prepare(&self.accepted(recipe)?, recipe, lent, &|| true)?)
            }
        };
        Ok(Made { what, codes: self.codes })
    }

    fn open_all(&mut self, members: &[Member], recipes: &BTreeMap<AppUid, Recipe>) -> Result<(), StepError> {
        members.iter().try_for_each(|member| self.open(member.app, recipes.get(&member.app)))
    }

    /// The maps that an app shares: of one that is being loaded again too, or of one that is pinned.
    fn lent(&self, recipe: &Recipe) -> Result<BTreeMap<String, OwnedFd>, StepError> {
        let open = |(map, lender): (&String, &AppUid)| {
            let made = self.codes.get(lender).and_then(|code| code.maps.get(map));
            let opened = match made {
                Some(fd) => fd.try_clone(),
                None => app::map(&self.pins, *lender, map),
            };
            let fd = opened.map_err(failed(|| format!("open map `{map}` of app {lender}, which it shares")))?;
            Ok((map.clone(), fd))
        };
        recipe.shared.iter().map(open).collect()
    }

    /// Makes an app's instructions again around its pinned maps, unless they are at hand.
    fn open(&mut self, app: AppUid, recipe: Option<&Recipe>) -> Result<(), StepError> {
        if !self.codes.contains_key(&app) {
            let code = self.code(app, recipe)?;
            self.codes.insert(app, Arc::new(code));
        }
        Ok(())
    }

    fn code(&self, app: AppUid, recipe: Option<&Recipe>) -> Result<AppCode, StepError> {
        let unknown = || StepError::Call {
            doing: format!("open app {app}"),
            errno: "the plan does not say what it is made of".to_owned(),
        };
        let recipe = recipe.ok_or_else(unknown)?;
        let maps = app::maps(&self.pins, app).map_err(failed(|| format!("open the maps of app {app}")))?;
        self.loader.reopen(&self.accepted(recipe)?, recipe, maps)
    }

    /// An object's bytes, read by the parse worker first, unless it did so in this process: another version of bpfd may have accepted them.
    fn accepted(&self, recipe: &Recipe) -> Result<Vec<u8>, StepError> {
        let doing = || format!("read object {}", recipe.object);
        let elf = (self.objects)(&recipe.object).map_err(failed(doing))?;
        parse::rehearse(&self.workers, &self.loader, &elf, recipe).map_err(|error| match error {
            ParseError::Refused(_)
            | ParseError::NoType(_)
            | ParseError::TooSlow(_)
            | ParseError::OutOfTime(_)
            | ParseError::Died { .. } => StepError::Object { why: error.to_string() },
            ParseError::Worker(_) => StepError::Call { doing: doing(), errno: error.to_string() },
        })?;
        Ok(elf)
    }
}

/// A verifier's refusal with the C line that it means, if the object's bytes are at hand.
fn located(error: StepError, need: &Need, objects: &Objects) -> StepError {
    let StepError::Verifier { program, link, log, mut rejection } = error else { return error };
    let recipe = match need {
        Need::App { recipe, .. } => Some(recipe),
        Need::Copy { members, recipes } | Need::Generation { members, recipes, .. } => {
            let member = members.iter().find(|member| Some(member.link) == link);
            member.and_then(|member| recipes.get(&member.app))
        }
    };
    let elf = recipe.and_then(|recipe| objects(&recipe.object).ok());
    if let Some(lines) = elf.and_then(|elf| LineTable::read(&elf).ok()) {
        rejection.locate(&lines);
    }
    StepError::Verifier { program, link, log, rejection }
}
