//! The test registry as a program, for tests that start processes: prints its address on the first line of standard
//! output and serves until its standard input ends or it is killed.
//!
//! `test-registry [--listen HOST:PORT] [--basic USER:PASSWORD | --bearer USER:PASSWORD | --anonymous-bearer]
//! [--no-referrers] [--zeros REPOSITORY]… [--mode REPOSITORY=MODE]…`; `src/testing/registry/mode.rs` lists the modes.

use std::{
    error::Error,
    io::{self, Read, Write},
};

use bytecode_image::testing::registry::{Access, Options, Referrers, TestRegistry};

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    let (mut modes, mut zeros) = (Vec::new(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("`{argument}` needs a value"));
        let pair = |text: String, by: char| {
            text.split_once(by).map(|(a, b)| (a.to_owned(), b.to_owned())).ok_or(format!("`{text}` has no `{by}`"))
        };
        match argument.as_str() {
            "--listen" => options.listen = value()?.parse()?,
            "--basic" => options.access = pair(value()?, ':').map(|(user, password)| Access::Basic(user, password))?,
            "--bearer" => {
                options.access = pair(value()?, ':').map(|(user, password)| Access::Bearer(user, password))?
            }
            "--anonymous-bearer" => options.access = Access::AnonymousBearer,
            "--no-referrers" => options.referrers = Referrers::Absent,
            "--zeros" => zeros.push(value()?),
            "--mode" => modes.push(pair(value()?, '=')?),
            other => return Err(format!("unknown argument `{other}`").into()),
        }
    }
    let registry = TestRegistry::start(options)?;
    for repository in zeros {
        registry.put_zeros(&repository)?;
    }
    for (repository, mode) in modes {
        registry.behave(&repository, mode.parse()?);
    }
    writeln!(io::stdout(), "{}", registry.address())?;
    io::stdout().flush()?;
    // Whoever started us holds the other end: when it dies, so do we.
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
