"""Figures, table, numbers and claims of one run: the paper's in paper_figures/, this machine's in paper_figures/local/."""

# The same rules for each of the two runs: their outputs lie in different folders.
for run in ["local", *([PAPER_RUN] if PAPER_RUN in PUBLISHED else [])]:

    for figure, workload in drawn_workloads(run).items():

        rule:
            name:
                f"{figure}_{run}"
            input:
                module("paper"),
                module("paper_figure"),
                summary="results/summary.csv",
                machine=f"{run_directory(run)}/machine.json",
            output:
                pdf=f"{paper_directory(run)}/{figure}.pdf",
                png=f"{paper_directory(run)}/{figure}.png",
            log:
                f"logs/{figure}_{run}.log",
            conda:
                ENVIRONMENT
            params:
                run=run,
                workload=workload,
            shell:
                "python3 -m evaluation.paper_figure --summary {input.summary} --run {params.run}"
                " --workload {params.workload} --machine {input.machine}"
                " --out-pdf {output.pdf} --out-png {output.png} > {log} 2>&1"

    if has_memory_wall(run):

        rule:
            name:
                f"memory_wall_{run}"
            input:
                module("paper_figure"),
                module("paper_wall"),
                # not read, but written when every record of the run has been checked
                "results/capacity.csv",
            output:
                pdf=f"{paper_directory(run)}/memory_wall.pdf",
                png=f"{paper_directory(run)}/memory_wall.png",
            log:
                f"logs/memory_wall_{run}.log",
            conda:
                ENVIRONMENT
            params:
                folder=run_directory(run),
            shell:
                "python3 -m evaluation.paper_wall --run {params.folder}"
                " --out-pdf {output.pdf} --out-png {output.png} > {log} 2>&1"

    for kind in ("load", "sweep"):
        if has_figure(run, kind):

            rule:
                name:
                    f"{kind}_{run}"
                input:
                    module("outcomes"),
                    module("paper"),
                    module("paper_figure"),
                    module(f"paper_{kind}"),
                    table=f"results/{kind}.csv",
                    machine=f"{run_directory(run)}/machine.json",
                output:
                    pdf=f"{paper_directory(run)}/{kind}.pdf",
                    png=f"{paper_directory(run)}/{kind}.png",
                log:
                    f"logs/{kind}_{run}.log",
                conda:
                    ENVIRONMENT
                params:
                    kind=kind,
                    run=run,
                shell:
                    "python3 -m evaluation.paper_{params.kind} --{params.kind} {input.table} --run {params.run}"
                    " --machine {input.machine} --out-pdf {output.pdf} --out-png {output.png} > {log} 2>&1"

    rule:
        name:
            f"table_{run}"
        input:
            module("paper"),
            module("paper_table"),
            module("outcomes"),
            "src/evaluation/templates/capabilities.tex.j2",
            summary="results/summary.csv",
            capacity="results/capacity.csv",
            capabilities="results/capabilities.csv",
            machine=f"{run_directory(run)}/machine.json",
        output:
            f"{paper_directory(run)}/capabilities.tex",
        log:
            f"logs/table_{run}.log",
        conda:
            ENVIRONMENT
        params:
            run=run,
        shell:
            "python3 -m evaluation.paper_table --summary {input.summary} --run {params.run}"
            " --capacity {input.capacity} --capabilities {input.capabilities}"
            " --machine {input.machine} --out {output} > {log} 2>&1"

    rule:
        name:
            f"numbers_{run}"
        input:
            module("outcomes"),
            module("paper"),
            module("paper_numbers"),
            f"{run_directory(run)}/study.json",
            summary="results/summary.csv",
            load="results/load.csv",
            sweep="results/sweep.csv",
            machine=f"{run_directory(run)}/machine.json",
        output:
            tex=f"{paper_directory(run)}/numbers.tex",
            json=f"{paper_directory(run)}/numbers.json",
        log:
            f"logs/numbers_{run}.log",
        conda:
            ENVIRONMENT
        params:
            run=run,
        shell:
            "python3 -m evaluation.paper_numbers --summary {input.summary} --run {params.run}"
            " --load {input.load} --sweep {input.sweep} --machine {input.machine}"
            " --out-tex {output.tex} --out-json {output.json} > {log} 2>&1"

    rule:
        name:
            f"claims_{run}"
        input:
            [
                module(name)
                for name in (
                    *("aggregate", "claim", "claims", "claims_of_use", "memo"),
                    *("paper", "paper_claims", "program_lines"),
                    *("statistics", "trends"),
                )
            ],
            "src/evaluation/templates/claims.tex.j2",
            # whose lines are counted
            "examples/debug_djinn.py",
            "examples/debug_vanilla.py",
            # not read, but written when every record of the run has been checked
            "results/summary.csv",
        output:
            **{
                suffix: f"{paper_directory(run)}/claims.{suffix}"
                for suffix in ("json", "md", "tex")
            },
        log:
            f"logs/claims_{run}.log",
        conda:
            ENVIRONMENT
        params:
            folder=run_directory(run),
        shell:
            "python3 -m evaluation.paper_claims --run {params.folder} --out-json {output.json}"
            " --out-md {output.md} --out-tex {output.tex} > {log} 2>&1"


if PAPER_RUN in PUBLISHED:

    rule reproduction:
        input:
            module("paper"),
            module("paper_reproduction"),
            summary="results/summary.csv",
            claims=[
                f"{paper_directory(run)}/claims.json" for run in ("local", PAPER_RUN)
            ],
            machines=[
                f"{run_directory(run)}/machine.json" for run in ("local", PAPER_RUN)
            ],
        output:
            "paper_figures/local/reproduction.md",
        log:
            "logs/reproduction.log",
        conda:
            ENVIRONMENT
        params:
            run=PAPER_RUN,
        shell:
            "python3 -m evaluation.paper_reproduction --summary {input.summary} --published {params.run}"
            " --local-claims {input.claims[0]} --published-claims {input.claims[1]}"
            " --local-machine {input.machines[0]} --published-machine {input.machines[1]}"
            " --out {output} > {log} 2>&1"
