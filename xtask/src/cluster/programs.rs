//! The programs of Kubernetes. Nobody packages them for Debian, but Debian 12 has their whole source: they are built from
//! it once, and kept in the cache.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    debian,
    screen::{Screen, Step},
    workspace,
};

/// What Debian 12 has; it does not change any more.
const VERSION: &str = "1.20.2";

/// All of them.
const PROGRAMS: [&str; 4] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
];

/// What building takes: the Go that Debian built them with, a library whose vendored copy is too old for it, and
/// `dpkg-source`.
const PACKAGES: [&str; 3] = [
    "golang-1.19-go",
    "golang-github-modern-go-reflect2-dev",
    "dpkg-dev",
];

const GO_ROOT: &str = "/usr/lib/go-1.19";

/// Where Debian puts the newer copy of the library.
const REFLECT: &str = "src/github.com/modern-go/reflect2";

/// The folder with all programs, built if need be.
pub fn ensure(screen: Screen) -> Result<PathBuf> {
    let folder = workspace::cache()?.join(format!("kubernetes-{VERSION}"));
    if complete(&folder) {
        return Ok(folder);
    }
    let cache = workspace::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = cache.join(format!("kubernetes-{VERSION}.lock"));
    let lock = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    if lock.try_lock().is_err() {
        screen.note("Another build of Kubernetes runs; this one waits for it");
        lock.lock().context("cannot wait for the other build")?;
    }
    if complete(&folder) {
        return Ok(folder);
    }
    let build = Build {
        folder: cache.join(format!("kubernetes-{VERSION}-build")),
    };
    // What a build that was killed has left.
    build.remove();
    build.run(screen)?;
    let built = build.folder.join("programs");
    if !complete(&built) {
        bail!("the build of Kubernetes left not all of its programs");
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::rename(&built, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Whether a folder has all programs.
pub fn complete(folder: &Path) -> bool {
    PROGRAMS
        .iter()
        .all(|program| folder.join(program).is_file())
}

/// A build, and its folder of some gigabytes, which goes with it.
struct Build {
    folder: PathBuf,
}

impl Build {
    fn run(&self, screen: Screen) -> Result<()> {
        debian::install(screen, &PACKAGES, "30 s, 400 MB on disk")
            .context("building Kubernetes takes packages that Debian 12 has")?;
        self.fetch(screen)?;
        self.unpack(screen)?;
        self.describe_api(screen)?;
        fs::create_dir_all(self.folder.join("programs"))?;
        for (number, program) in (1..).zip(PROGRAMS) {
            // By the path that Go gives a vendored package.
            let version = "k8s.io/kubernetes/vendor/k8s.io/component-base/version";
            let flags = format!(
                "-s -w -X {version}.gitVersion=v{VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor=20"
            );
            let mut build = self.go();
            build
                .args(["build", "-v", "-ldflags", &flags, "-o"])
                .arg(self.folder.join("programs").join(program))
                .arg(format!("k8s.io/kubernetes/cmd/{program}"));
            let usually = ["4 to 8 minutes", "2 minutes", "20 s", "2 minutes"][number - 1];
            let what = format!(
                "Building {program} ({number} of {}, usually {usually}, once)",
                PROGRAMS.len()
            );
            quiet(screen, &what, &mut build)?;
        }
        Ok(())
    }

    /// Fetches the source package. `apt-get` gets lists and sources of its own, so that the system's stay as they are.
    fn fetch(&self, screen: Screen) -> Result<()> {
        let apt = self.folder.join("apt");
        for folder in ["lists/partial", "archives/partial", "parts"] {
            fs::create_dir_all(apt.join(folder))
                .with_context(|| format!("cannot create {}", apt.join(folder).display()))?;
        }
        let (lines, stanzas) = system_sources()?;
        fs::write(apt.join("sources.list"), lines)?;
        fs::write(apt.join("parts/sources.sources"), stanzas)?;
        let apt_get = || {
            let mut command = workspace::outside_cargo("apt-get");
            command.current_dir(&self.folder);
            for (option, place) in [
                ("Dir::Etc::SourceList", "sources.list"),
                ("Dir::Etc::SourceParts", "parts"),
                ("Dir::State::Lists", "lists"),
                ("Dir::Cache::Archives", "archives"),
                ("Dir::Cache::pkgcache", "packages.bin"),
                ("Dir::Cache::srcpkgcache", "sources.bin"),
            ] {
                command.arg("-o");
                command.arg(format!("{option}={}", apt.join(place).display()));
            }
            // Its own user for downloads may not enter the folder of ours.
            command.args(["-o", "APT::Sandbox::User=root", "-q"]);
            command
        };
        screen
            .step(
                &Step::new("Reading Debian's lists of sources").usually("15 s"),
                apt_get().arg("update"),
            )
            .context("cannot read Debian's lists of sources")?;
        screen
            .step(
                &Step::new("Fetching the source of Kubernetes").usually("10 s, 30 MB"),
                apt_get().args(["source", "--download-only", "kubernetes"]),
            )
            .context("Debian 12 has it, and no later Debian")
    }

    /// Unpacks the source where Go looks for it.
    fn unpack(&self, screen: Screen) -> Result<()> {
        let described = fs::read_dir(&self.folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
            .context("apt-get left no source of Kubernetes")?;
        let source = self.source();
        fs::create_dir_all(source.parent().unwrap_or(&source))?;
        let mut unpack = Command::new("dpkg-source");
        // apt-get has compared the signature; Debian's patches are about building Debian's packages.
        unpack.args(["--no-check", "--skip-patches", "-x"]);
        unpack.arg(described).arg(&source);
        screen.step(&Step::new("Unpacking it").usually("10 s"), &mut unpack)?;
        let old = source
            .join("vendor")
            .join(REFLECT.trim_start_matches("src/"));
        fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        let mut copy = Command::new("cp");
        // The package's files are links.
        copy.args(["--recursive", "--dereference"]);
        copy.arg(Path::new("/usr/share/gocode").join(REFLECT))
            .arg(&old);
        screen.step(
            &Step::new("Renewing a library that Go 1.18 broke"),
            &mut copy,
        )
    }

    /// Generates the description of the API, which is part of a release and not of the source.
    fn describe_api(&self, screen: Screen) -> Result<()> {
        let generator = self.folder.join("openapi-gen");
        let mut build = self.go();
        build.args(["build", "-o"]).arg(&generator);
        build.arg("k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen");
        quiet(
            screen,
            "Building the generator of the API's description",
            &mut build,
        )?;
        let source = self.source();
        let mut described = BTreeSet::new();
        for (folder, package) in [
            ("staging/src/k8s.io", "k8s.io/kubernetes/vendor/k8s.io"),
            ("pkg", "k8s.io/kubernetes/pkg"),
            ("cmd", "k8s.io/kubernetes/cmd"),
            ("vendor/k8s.io", "k8s.io/kubernetes/vendor/k8s.io"),
        ] {
            packages_to_describe(&source.join(folder), package, &mut described)?;
        }
        let described: Vec<String> = described.into_iter().collect();
        let mut generate = Command::new(&generator);
        self.environment(&mut generate);
        generate.args(["--logtostderr", "-O", "zz_generated.openapi"]);
        generate.args(["-p", "k8s.io/kubernetes/pkg/generated/openapi"]);
        generate.args(["-h", "hack/boilerplate/boilerplate.generatego.txt", "-r"]);
        generate.arg(self.folder.join("violations"));
        generate.arg("-i").arg(described.join(","));
        quiet(
            screen,
            "Generating the API's description (usually 30 s)",
            &mut generate,
        )
    }

    fn source(&self) -> PathBuf {
        self.folder.join("go/src/k8s.io/kubernetes")
    }

    fn go(&self) -> Command {
        let mut command = workspace::outside_cargo(Path::new(GO_ROOT).join("bin/go"));
        self.environment(&mut command);
        command
    }

    /// Go as it was before modules, and nothing of what the user has set.
    fn environment(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .current_dir(self.source())
            .env("PATH", format!("{GO_ROOT}/bin:{path}"))
            .env("GOROOT", GO_ROOT)
            .env("GOPATH", self.folder.join("go"))
            .env("GOCACHE", self.folder.join("cache"))
            .env("GOTMPDIR", &self.folder)
            .env("GO111MODULE", "off")
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "");
    }

    fn remove(&self) {
        // What cannot be removed now is in the way of the next build, which says so.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Runs a command that has much to say, shows its lines while they are new, and all of them if it fails.
fn quiet(screen: Screen, what: &str, command: &mut Command) -> Result<()> {
    let mut said = Vec::new();
    let status = screen.lines(what, command, |progress, line| {
        progress.passing(&line);
        said.push(line);
    })?;
    if status.success() {
        return Ok(());
    }
    for line in &said[said.len().saturating_sub(40)..] {
        println!("      {line}");
    }
    bail!("{} ended with {status}", command.get_program().display());
}

/// The packages below `folder` whose types ask to be described.
fn packages_to_describe(folder: &Path, package: &str, found: &mut BTreeSet<String>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        if kind.is_dir() && name != "_examples" && name != "testdata" {
            packages_to_describe(&entry.path(), &format!("{package}/{name}"), found)?;
        } else if kind.is_file()
            && name.ends_with(".go")
            && !name.contains("_test")
            && fs::read(entry.path())?
                .windows(MARK.len())
                .any(|text| text == MARK)
        {
            found.insert(package.to_owned());
        }
    }
    Ok(())
}

/// How a package asks for it.
const MARK: &[u8] = b"+k8s:openapi-gen=";

/// Where the system has its packages of Debian 12 from, asked for sources: in the form of lines and in that of stanzas.
fn system_sources() -> Result<(String, String)> {
    let (mut lines, mut stanzas) = (String::new(), String::new());
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    for file in parts.chain([PathBuf::from("/etc/apt/sources.list")]) {
        let extension = file.extension().unwrap_or_default();
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        if extension == "list" {
            lines.push_str(&source_lines(&text));
        } else if extension == "sources" {
            stanzas.push_str(&source_stanzas(&text));
        }
    }
    if lines.is_empty() && stanzas.is_empty() {
        bail!("this system has no packages of Debian 12 (bookworm), whose source is taken");
    }
    Ok((lines, stanzas))
}

fn source_lines(text: &str) -> String {
    text.lines()
        .filter(|line| line.contains("bookworm"))
        .filter_map(|line| line.trim().strip_prefix("deb "))
        .map(|rest| format!("deb-src {rest}\n"))
        .collect()
}

fn source_stanzas(text: &str) -> String {
    let mut stanzas = String::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let binary =
            field("Types").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"));
        let of_bookworm = field("Suites").is_some_and(|suites| suites.contains("bookworm"));
        if !binary || !of_bookworm {
            continue;
        }
        for line in stanza.lines() {
            let line = match line.starts_with("Types:") {
                true => "Types: deb-src",
                false => line,
            };
            stanzas.push_str(line);
            stanzas.push('\n');
        }
        stanzas.push('\n');
    }
    stanzas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_the_system_are_asked_for_sources() {
        let check = |text: &str, expected: &str| assert_eq!(source_lines(text), expected, "{text}");
        check(
            "deb http://deb.debian.org/debian bookworm main\n# deb x bookworm main\n",
            "deb-src http://deb.debian.org/debian bookworm main\n",
        );
        check("deb http://deb.debian.org/debian trixie main\n", "");
        check("deb-src http://deb.debian.org/debian bookworm main\n", "");

        let check =
            |text: &str, expected: &str| assert_eq!(source_stanzas(text), expected, "{text}");
        check(
            "Types: deb deb-src\n# of Debian\nURIs: http://a\nSuites: bookworm\n\nTypes: deb\nURIs: http://b\nSuites: nodistro\n",
            "Types: deb-src\n# of Debian\nURIs: http://a\nSuites: bookworm\n\n",
        );
        check("Types: deb-src\nURIs: http://a\nSuites: bookworm\n", "");
        check("", "");
    }

    #[test]
    fn packages_that_ask_are_described() {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("a/types.go", "// +k8s:openapi-gen=true\n"),
            ("a/b/doc.go", "package b // +k8s:openapi-gen=true"),
            ("c/c_test.go", "// +k8s:openapi-gen=true\n"),
            ("d/testdata/d.go", "// +k8s:openapi-gen=true\n"),
            ("e/e.go", "package e\n"),
        ] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut found = BTreeSet::new();
        packages_to_describe(folder.path(), "k8s.io", &mut found).unwrap();
        let found: Vec<String> = found.into_iter().collect();
        assert_eq!(found, ["k8s.io/a", "k8s.io/a/b"]);
    }
}
