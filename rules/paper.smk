"""Figures, table, numbers and claims of one run: the paper's in paper_figures/, this machine's in paper_figures/local/."""

# The same rules for each of the two runs: their outputs lie in different folders.
for run in ["local", *([PAPER_RUN] if PAPER_RUN in PUBLISHED else [])]:

    for figure, (drawing, workload) in drawn_workloads(run).items():

        rule:
            name:
                f"{figure}_{run}"
            input:
                module("analysis/findings"),
                [
                    module(f"figures/{name}")
                    for name in sorted({"style", "crossover", drawing})
                ],
                summary="results/summary.csv",
                machine=f"{run_directory(run)}/machine.json",
            output:
                pdf=f"{paper_directory(run)}/{figure}.pdf",
                png=shown(
                    f"{paper_directory(run)}/{figure}.png",
                    "clocks" if drawing == "clocks" else "crossover",
                    run,
                ),
            log:
                f"logs/{figure}_{run}.log",
            conda:
                ENVIRONMENT
            params:
                drawing=drawing,
                run=run,
                workload=workload,
            shell:
                "python3 -m evaluation.figures.{params.drawing} --summary {input.summary} --run {params.run}"
                " --workload {params.workload} --machine {input.machine}"
                " --out-pdf {output.pdf} --out-png {output.png} > {log} 2>&1"

    if has_memory_wall(run):

        rule:
            name:
                f"memory_wall_{run}"
            input:
                module("figures/style"),
                module("figures/memory_wall"),
                # not read, but written when every record of the run has been checked
                "results/capacity.csv",
            output:
                pdf=f"{paper_directory(run)}/memory_wall.pdf",
                png=shown(f"{paper_directory(run)}/memory_wall.png", "memory_wall", run),
            log:
                f"logs/memory_wall_{run}.log",
            conda:
                ENVIRONMENT
            params:
                folder=run_directory(run),
            shell:
                "python3 -m evaluation.figures.memory_wall --run {params.folder}"
                " --out-pdf {output.pdf} --out-png {output.png} > {log} 2>&1"

    for kind in ("load", "sweep"):
        if has_figure(run, kind):

            rule:
                name:
                    f"{kind}_{run}"
                input:
                    module("analysis/outcomes"),
                    module("analysis/findings"),
                    module("figures/style"),
                    module(f"figures/{kind}"),
                    table=f"results/{kind}.csv",
                    machine=f"{run_directory(run)}/machine.json",
                output:
                    pdf=f"{paper_directory(run)}/{kind}.pdf",
                    png=shown(f"{paper_directory(run)}/{kind}.png", kind, run),
                log:
                    f"logs/{kind}_{run}.log",
                conda:
                    ENVIRONMENT
                params:
                    kind=kind,
                    run=run,
                shell:
                    "python3 -m evaluation.figures.{params.kind} --{params.kind} {input.table} --run {params.run}"
                    " --machine {input.machine} --out-pdf {output.pdf} --out-png {output.png} > {log} 2>&1"

    rule:
        name:
            f"samples_{run}"
        input:
            module("analysis/findings"),
            module("figures/style"),
            module("figures/samples"),
            # not read, but written when every record of the run has been checked
            "results/summary.csv",
        output:
            pdf=f"{paper_directory(run)}/samples.pdf",
            png=shown(f"{paper_directory(run)}/samples.png", "samples", run),
        log:
            f"logs/samples_{run}.log",
        conda:
            ENVIRONMENT
        params:
            folder=run_directory(run),
        shell:
            "python3 -m evaluation.figures.samples --run {params.folder}"
            " --out-pdf {output.pdf} --out-png {output.png} > {log} 2>&1"

    rule:
        name:
            f"setup_{run}"
        input:
            module("analysis/findings"),
            module("text/setup"),
            module("text/capabilities"),
            "src/evaluation/text/templates/setup.tex.j2",
            "src/evaluation/text/templates/methods.tex.j2",
            "results/summary.csv",
        output:
            setup=shown(f"{paper_directory(run)}/setup.tex", "setup", run),
            methods=shown(f"{paper_directory(run)}/methods.tex", "setup", run),
        log:
            f"logs/setup_{run}.log",
        conda:
            ENVIRONMENT
        params:
            folder=run_directory(run),
        shell:
            "python3 -m evaluation.text.setup --run {params.folder}"
            " --out-setup {output.setup} --out-methods {output.methods} > {log} 2>&1"

    rule:
        name:
            f"experiments_{run}"
        input:
            module("analysis/findings"),
            module("text/experiments"),
            "results/summary.csv",
        output:
            shown(f"{paper_directory(run)}/experiments.md", "experiments", run),
        log:
            f"logs/experiments_{run}.log",
        conda:
            ENVIRONMENT
        params:
            folder=run_directory(run),
        shell:
            "python3 -m evaluation.text.experiments --run {params.folder} --out {output} > {log} 2>&1"

    rule:
        name:
            f"table_{run}"
        input:
            module("analysis/findings"),
            module("text/capabilities"),
            module("analysis/outcomes"),
            "src/evaluation/text/templates/capabilities.tex.j2",
            summary="results/summary.csv",
            capacity="results/capacity.csv",
            capabilities="results/capabilities.csv",
            machine=f"{run_directory(run)}/machine.json",
        output:
            shown(f"{paper_directory(run)}/capabilities.tex", "capabilities", run),
        log:
            f"logs/table_{run}.log",
        conda:
            ENVIRONMENT
        params:
            run=run,
        shell:
            "python3 -m evaluation.text.capabilities --summary {input.summary} --run {params.run}"
            " --capacity {input.capacity} --capabilities {input.capabilities}"
            " --machine {input.machine} --out {output} > {log} 2>&1"

    rule:
        name:
            f"numbers_{run}"
        input:
            module("analysis/outcomes"),
            module("analysis/findings"),
            module("text/macro"),
            module("text/numbers"),
            module("text/numbers_of_use"),
            module("analysis/statistics"),
            f"{run_directory(run)}/study.json",
            [f"results/{table}.csv" for table in BESIDE_SUMMARY],
            summary="results/summary.csv",
            machine=f"{run_directory(run)}/machine.json",
        output:
            tex=f"{paper_directory(run)}/numbers.tex",
            json=shown(f"{paper_directory(run)}/numbers.json", "numbers", run),
        log:
            f"logs/numbers_{run}.log",
        conda:
            ENVIRONMENT
        params:
            run=run,
        shell:
            "python3 -m evaluation.text.numbers --summary {input.summary} --run {params.run}"
            " --machine {input.machine}"
            " --out-tex {output.tex} --out-json {output.json} > {log} 2>&1"

    rule:
        name:
            f"claims_{run}"
        input:
            [
                module(name)
                for name in (
                    *(
                        "claims/claim",
                        "claims/of_time",
                        "claims/of_use",
                        "claims/memo",
                    ),
                    *("text/claims", "study/program_lines"),
                    *(f"analysis/{part}" for part in ("aggregate", "findings")),
                    *(f"analysis/{part}" for part in ("statistics", "trends")),
                )
            ],
            "src/evaluation/text/templates/claims.tex.j2",
            # whose lines are counted
            "examples/debug_djinn.py",
            "examples/debug_vanilla.py",
            # not read, but written when every record of the run has been checked
            "results/summary.csv",
        output:
            **{
                suffix: shown(f"{paper_directory(run)}/claims.{suffix}", "claims", run)
                for suffix in ("json", "md", "tex")
            },
        log:
            f"logs/claims_{run}.log",
        conda:
            ENVIRONMENT
        params:
            folder=run_directory(run),
        shell:
            "python3 -m evaluation.text.claims --run {params.folder} --out-json {output.json}"
            " --out-md {output.md} --out-tex {output.tex} > {log} 2>&1"


if PAPER_RUN in PUBLISHED:

    rule reproduction:
        input:
            module("analysis/findings"),
            module("text/reproduction"),
            summary="results/summary.csv",
            claims=[
                f"{paper_directory(run)}/claims.json" for run in ("local", PAPER_RUN)
            ],
            machines=[
                f"{run_directory(run)}/machine.json" for run in ("local", PAPER_RUN)
            ],
        output:
            shown("paper_figures/local/reproduction.md", "reproduction", "local"),
        log:
            "logs/reproduction.log",
        conda:
            ENVIRONMENT
        params:
            run=PAPER_RUN,
        shell:
            "python3 -m evaluation.text.reproduction --summary {input.summary} --published {params.run}"
            " --local-claims {input.claims[0]} --published-claims {input.claims[1]}"
            " --local-machine {input.machines[0]} --published-machine {input.machines[1]}"
            " --out {output} > {log} 2>&1"
