# `make help`: the targets of a Makefile that have a line of help, by what a person wants to do.
# Give the groups by -v groups="Run:run,left Develop:test,lint"; a target that stands in none comes last.
match($0, /^[a-z][a-z -]*:.*## /) {
    help = substr($0, RLENGTH + 1)
    count = split(substr($0, 1, index($0, ":") - 1), names, " ")
    several = split(help, texts, "; ") == count  # one line may hold the help of several targets
    for (i = 1; i <= count; i++) {
        order[++last] = names[i]
        text[names[i]] = several ? texts[i] : help
    }
}
function add(name) {
    if (name in text && !(name in shown)) lines = lines sprintf("  %-14s %s\n", name, text[name])
    shown[name] = 1
}
function print_group(title) {
    if (lines) print title ":\n" lines
    lines = ""
}
END {
    count = split(groups, parts, " ")
    for (i = 1; i <= count; i++) {
        split(parts[i], group, ":")
        size = split(group[2], members, ",")
        for (j = 1; j <= size; j++) add(members[j])
        print_group(group[1])
    }
    for (i = 1; i <= last; i++) add(order[i])
    print_group("More")
}
