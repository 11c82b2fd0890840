//! What becomes of a run's changes in the real tree.

use crate::stage::{Stage, an_ordinary_user, everybody, is_root, is_root_of_a_namespace, say_not_played};

#[test]
fn what_the_run_shows_is_what_there_is_afterwards() {
    for who in everybody() {
        let stage = Stage::new(who);
        stage.sh("mkdir -p w/d/e w/gone/deep w/was-dir w/keep; cd w; echo a > a; echo f > d/e/f; echo x > gone/deep/x; ln -s a l; echo q > was-dir/q
             echo fd > was-file; echo m > mode; echo t > times; echo k > keep/k; mkfifo p; echo h > h1; ln h1 h2; ln h1 keep/h3; echo empty > cut");
        let inside = "cd ~/w; find . -printf '%P %y %#m %U:%G %l\\n' | sort; find . ! -type d -printf '%P %n\\n' | sort; find . -type f -printf '%P %T@\\n' | sort
             find . -type f | sort | xargs sha256sum; find . -print0 | sort -z | xargs -0 getfattr -dhm user -
             find . ! -type l | sort | xargs getfacl -p";
        let change = "cd ~/w; echo more >> a; mv d moved; rm -r gone; ln -sfn b l; rm -r was-dir; echo file > was-dir; rm was-file; mkdir -m 2750 was-file
             echo in > was-file/in; chmod 4711 mode; touch -d \"2001-02-03 04:05:06.789\" times; setfattr -n user.k -v v keep keep/k 2>/dev/null
             mkdir -p new/er/est; echo n > new/er/est/n; chmod 555 new/er; truncate -s 1M sparse; echo end >> sparse; ln a a2; mkfifo new/p2
             setfacl -m u:$(id -u):r keep/k; setfacl -d -m u:$(id -u):rx keep; echo hh >> h1; : > cut; chmod 711 .";
        let shown = stage.sh(&format!(
            "plyfs run --name x -- sh -euc '{change}'; plyfs run --name x -- sh -c \"{inside}\""
        ));
        let listed = stage.sh("plyfs apply -n x");
        assert_eq!(
            stage.sh("cat w/a; ls w/d/e w/gone/deep"),
            "a\nw/d/e:\nf\n\nw/gone/deep:\nx\n",
            "a dry run does nothing"
        );
        assert_eq!(stage.sh("plyfs apply x"), listed);
        assert_eq!(stage.sh(&format!("sh -c \"{inside}\"")), shown, "{who:?}");
        assert_eq!(stage.sh("plyfs apply x; plyfs apply -n x; plyfs diff x; [ $(stat -c %b w/sparse) -lt 200 ]; find . -name '.plyfs*'"), "");
        // Nothing is changed by what changes nothing.
        let before = stage.all();
        stage.sh("plyfs apply x");
        assert_eq!(stage.all(), before);
        // And the run goes on.
        stage.sh("plyfs run --name x -- sh -c 'cd w; echo again >> a; rm a2'; plyfs apply x; [ \"$(tail -n 1 w/a)\" = again ]; [ ! -e w/a2 ]");
    }
}

#[test]
fn a_change_on_one_side_counts_and_on_both_is_a_conflict() {
    let stage = Stage::new(an_ordinary_user());
    stage.sh("mkdir w; cd w; for f in untouched run-only outside-only both same gone-here gone-there gone-both mode-both type only-opened; do echo $f > $f; done
         mkdir dir-gone dir-new; echo i > dir-gone/i; echo i > dir-new/i
         plyfs run --name c -- sh -euc '
             for f in run-only both same mode-both type; do echo run >> $f; done; rm gone-here gone-both; echo run >> gone-there; chmod 600 only-opened; chmod 644 only-opened
             rm -r dir-gone dir-new; echo mine > made; echo eq > made-same; touch -d 2020-01-01 made-same; touch -d 2020-01-02 same'
         for f in outside-only both only-opened; do echo outside >> $f; done; echo run >> same; touch -d 2020-01-02 same; echo new >> gone-here; rm gone-there gone-both; chmod 600 mode-both
         rm type; mkdir type; echo n > dir-new/n; echo theirs > made; echo eq > made-same; touch -d 2020-01-01 made-same");
    let before = stage.all();
    let said = stage.fails(1, "plyfs apply c");
    for line in [
        "C HOME/w/both: changed in the run and outside",
        "C HOME/w/gone-here: deleted in the run, and changed outside",
        "C HOME/w/gone-there: changed in the run, and deleted or renamed outside",
        "C HOME/w/made: made in the run and outside",
        "C HOME/w/mode-both: changed in the run, and owner, mode or attributes outside",
        "C HOME/w/type: changed in the run, and something of another type outside",
        "C HOME/w/dir-new/n: new outside, in a directory that the run has deleted or replaced",
        "    <<<<<<< outside",
        "    ||||||| before",
        "    >>>>>>> run c",
    ] {
        let line = line.replace("HOME", &stage.home().display().to_string());
        assert!(said.lines().any(|said| said.starts_with(&line)), "{line}\n{said}");
    }
    assert_eq!(said.lines().filter(|line| line.starts_with("C ")).count(), 7, "{said}");
    assert_eq!(stage.all(), before, "nothing is done");
    let json = stage.fails(1, "plyfs apply -n --json c");
    assert!(json.contains("\"conflict\": \"made in the run and outside\""), "{json}");
    // What is not in conflict, by name.
    stage.sh("plyfs apply c w/run-only w/dir-gone; tail -n 1 w/run-only | grep -q run; [ ! -e w/dir-gone ]; [ -e w/dir-new/i ]");
    assert!(stage.fails(3, "plyfs apply c w/untouched").contains("has changed nothing at w/untouched"));
    let both = "cd w; cat both made mode-both only-opened; ls; ls dir-new";
    stage.sh("plyfs apply --ours c");
    let ours = stage.sh(both);
    assert!(ours.starts_with("both\noutside\ntheirs\nmode-both\nonly-opened\noutside\n"), "{ours}");
    assert!(
        ours.ends_with("\nn\n") && !ours.contains("dir-gone"),
        "what is new stays, what was known goes: {ours}"
    );
    stage.sh("plyfs apply --theirs c");
    let theirs = stage.sh("cd w; cat both made mode-both only-opened type gone-there; ls");
    assert!(
        theirs.starts_with(
            "both\nrun\nmine\nmode-both\nrun\nonly-opened\noutside\ntype\nrun\ngone-there\nrun\n"
        ),
        "{theirs}"
    );
    assert!(!theirs.contains("dir-new") && !theirs.contains("gone-here"), "{theirs}");
    assert_eq!(stage.sh("plyfs apply c"), "");
}

#[test]
fn text_is_merged_when_asked_for_and_stays_merged() {
    let stage = Stage::new(an_ordinary_user());
    stage.sh("mkdir w; cd w; seq 20 > t; seq 5 > u; plyfs run --name m -- sh -c 'sed -i s/^2$/two/ t; sed -i s/1/one/ u'; sed -i s/^19$/nineteen/ t; sed -i s/1/eins/ u");
    assert!(stage.fails(1, "plyfs apply m").contains("--merge takes both"));
    let said = stage.fails(1, "plyfs apply --merge m");
    assert!(said.contains("/w/u: changed") && !said.contains("/w/t: changed"), "{said}");
    stage.sh("plyfs apply --merge m w/t; grep -qx two w/t; grep -qx nineteen w/t; plyfs apply --theirs m w/u; grep -qx one w/u");
    // Once more changes nothing, and what comes next is merged with that.
    stage.sh("plyfs apply m; grep -qx nineteen w/t; plyfs run --name m -- sed -i s/^10$/ten/ w/t");
    assert!(stage.fails(1, "plyfs apply m").contains("--merge takes both"));
    stage.sh("plyfs apply --merge m; grep -qx two w/t; grep -qx ten w/t; grep -qx nineteen w/t");
}

#[test]
fn a_path_of_a_new_directory_brings_the_directory_along() {
    let stage = Stage::new(an_ordinary_user());
    stage.sh("plyfs run --name p -- sh -c 'mkdir -p new/er; echo 1 > new/er/one; echo 2 > new/er/two; echo 3 > new/three'
         plyfs apply p new/er/one; [ \"$(find new -type f)\" = new/er/one ]; plyfs apply p; [ $(find new -type f | wc -l) = 3 ]");
}

#[test]
fn a_rename_outside_is_named() {
    let stage = Stage::new(an_ordinary_user());
    let said = stage.fails(1, "echo a > f; plyfs run --name r -- sh -c 'echo b >> f'; mv f g; plyfs apply r");
    assert!(said.contains("it is called g by now"), "{said}");
}

#[test]
fn other_names_of_a_file_follow_as_they_do_in_the_run() {
    let stage = Stage::new(an_ordinary_user());
    let said = stage.sh("mkdir a b; echo 1 > a/f; ln a/f b/g; echo 2 > a/x; ln a/x b/y
         plyfs run --name h -- sh -c 'echo more >> a/f; cat b/g; ln b/g b/h; echo new > t; mv t a/x; cat b/y'; plyfs apply h > /dev/null
         cat b/g b/h a/x b/y; stat -c %h a/f a/x; [ b/h -ef a/f ]");
    assert_eq!(said, "1\nmore\n2\n1\nmore\n1\nmore\nnew\n2\n3\n1\n");
}

#[test]
fn what_is_not_allowed_is_said_before_anything_is_done() {
    if is_root_of_a_namespace() {
        return say_not_played("needs a user who is held to permissions");
    }
    let stage = Stage::new(an_ordinary_user());
    stage.sh("mkdir w closed; echo f > w/f; echo g > closed/g; plyfs run --name n -- sh -c 'echo more >> w/f; echo more >> closed/g'; chmod 555 closed");
    let said = stage.fails(1, "plyfs apply n");
    assert!(said.contains("nothing was done: cannot write to") && said.contains("/closed"), "{said}");
    assert_eq!(stage.sh("cat w/f; chmod 755 closed; plyfs apply n > /dev/null; cat w/f"), "f\nf\nmore\n");
}

#[test]
fn nothing_leads_elsewhere() {
    let stage = Stage::new(an_ordinary_user());
    stage.sh("mkdir w elsewhere; echo f > w/f; echo e > elsewhere/f; plyfs run --name s -- sh -c 'echo more >> w/f; rm w/f; echo new > w/n'; mv w was; ln -s elsewhere w");
    let before = stage.sh("ls -l elsewhere; cat elsewhere/f");
    stage.fails(1, "plyfs apply s");
    stage.output("plyfs apply --theirs s");
    assert_eq!(stage.sh("ls -l elsewhere; cat elsewhere/f"), before);
}

#[test]
fn a_full_disk_changes_nothing() {
    if !is_root() {
        return say_not_played("needs root (a disk of its own)");
    }
    let stage = Stage::new(crate::stage::Who::Me);
    let said = stage.fails(1, "mkdir disk; mount -t tmpfs -o size=1m,nr_inodes=100 none disk; trap 'umount -l disk' EXIT
         echo old > disk/a; echo gone > disk/gone; plyfs run --name f -- sh -c 'echo new > disk/a; rm disk/gone; head -c 700k /dev/zero > disk/big'
         head -c 500k /dev/zero > disk/other; code=0; plyfs apply f || code=$?; cat disk/a disk/gone; ls -A disk; rm disk/other; plyfs apply f; ls -A disk; cat disk/a; exit $code");
    assert!(said.contains("nothing was done") && said.contains("old\ngone\na\ngone\nother\n"), "{said}");
    assert!(said.contains("\na\nbig\nnew\n"), "{said}");
}

#[test]
fn what_is_changed_while_it_goes_on_is_not_lost() {
    let stage = Stage::new(an_ordinary_user());
    // syncfs(2) lies between the decision and the first step.
    let said = stage.sh("mkdir gone; echo f > f; echo g > gone/g; echo a > a
         plyfs run --name r -- sh -c 'echo run >> f; echo run >> a; rm -r gone'
         strace -f -qq -o /dev/null -e trace=syncfs -e inject=syncfs:delay_enter=1500000 plyfs apply r > said 2>&1 & pid=$!
         sleep 0.8; echo outside >> f; echo new > gone/new; code=0; wait $pid || code=$?; echo $code; cat f gone/new a; grep -c 'was changed just now' said
         plyfs apply r > again 2>&1 || echo refused; cat f gone/new; plyfs apply --ours r > /dev/null
         ls gone; find . -name '.plyfs-apply-*'");
    assert_eq!(said, "1\nf\noutside\nnew\na\nrun\n1\nrefused\nf\noutside\nnew\nnew\n");
}
