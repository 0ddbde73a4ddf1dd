"""The promises of the `Engine` port as tests, for every engine: real ones and the one in memory."""

from __future__ import annotations

from contextlib import closing

from fourfold.core.errors import Refused
from fourfold.core.ports.engine import Exit, ExitKind, Launch, Phase, Resources
from fourfold.core.quantities import Range
from fourfold.testing.engine.base import EngineKitBase
from fourfold.testing.engine.commands import RunningCommands
from fourfold.testing.engine.fake import Course
from fourfold.testing.engine.serving import Serving


class EngineKit(RunningCommands, Serving, EngineKitBase):
    """Inherit, and say how to open the engine.

    ```python
    class TestMyEngine(EngineKit):
        def open(self): return MyEngine(...)
    ```

    Where jobs find another Python than ours, say also how they run a script (`python`).

    What an engine cannot do, its `capabilities` say, and the kit asks for the refusal instead. A promise
    that an engine is known to break is named in `gaps`, with the reason.
    """

    def test_a_job_runs_and_its_output_and_use_are_kept(self) -> None:
        with closing(self.open()) as engine:
            engine.submit(self.launch("a", Course(output="hello")))
            status = self.ended(engine, "a")
            assert status.exit is not None
            assert (status.exit.kind, status.exit.code) == (ExitKind.ok, 0)
            assert status.started_at is not None
            assert status.ended_at is not None
            assert status.started_at <= status.ended_at
            chunk = engine.logs("a")
            assert (chunk.data.strip(), chunk.is_end) == (b"hello", True)
            assert engine.usage("a").wall_s >= 0

    def test_output_is_read_by_offset(self) -> None:
        with closing(self.open()) as engine:
            engine.submit(self.launch("a", Course(output="abcdef")))
            self.ended(engine, "a")
            first = engine.logs("a", 0, 4)
            rest = engine.logs("a", first.next_offset)
            assert (first.data, first.is_end) == (b"abcd", False)
            assert (first.data + rest.data).strip() == b"abcdef"
            assert rest.is_end

    def test_a_key_submitted_twice_starts_once(self) -> None:
        with closing(self.open()) as engine:
            engine.submit(self.launch("a", Course(output="once.")))
            engine.submit(self.launch("a", Course(output="twice.")))
            self.ended(engine, "a")
            engine.submit(self.launch("a", Course(output="thrice.")))
            assert self.ended(engine, "a").exit == Exit(ExitKind.ok, "", 0)
            assert engine.logs("a").data.strip() == b"once."

    def test_a_failure_tells_its_code(self) -> None:
        with closing(self.open()) as engine:
            engine.submit(self.launch("a", Course(exit_code=3)))
            exit_ = self.ended(engine, "a").exit
            assert exit_ is not None
            assert (exit_.kind, exit_.code) == (ExitKind.failed, 3)
            assert exit_.reason

    def test_a_job_over_its_time_is_ended_and_says_so(self) -> None:
        with closing(self.open()) as engine:
            engine.submit(self.launch("a", Course(600), Resources(time_limit_s=0.1)))
            exit_ = self.ended(engine, "a").exit
            assert exit_ is not None
            assert exit_.kind is ExitKind.over_time

    def test_a_job_over_its_memory_is_ended_and_says_so(self) -> None:
        with closing(self.open()) as engine:
            if engine.capabilities().memory_limit == "none":
                return
            asked = Resources(memory_bytes=Range(0, 64 << 20))
            engine.submit(self.launch("a", Course(600, memory_bytes=256 << 20), asked))
            exit_ = self.ended(engine, "a").exit
            assert exit_ is not None
            assert exit_.kind is ExitKind.out_of_memory

    def test_a_stopped_job_ends_also_when_it_ignores_the_polite_word(self) -> None:
        with closing(self.open()) as engine:
            engine.submit(self.launch("a", Course(600, ignores_stop=True)))
            assert engine.status(["a"])["a"].phase in (Phase.starting, Phase.running)
            engine.stop("a", 0.1)
            engine.stop("a", 0.1)
            exit_ = self.ended(engine, "a").exit
            assert exit_ is not None
            assert exit_.kind is ExitKind.cancelled
            engine.stop("a")  # again, after its end
            engine.stop("never submitted")

    def test_many_jobs_are_told_in_one_call_also_unknown_ones(self) -> None:
        with closing(self.open()) as engine:
            keys = [f"job/{index}" for index in range(5)]
            for key in keys:
                engine.submit(self.launch(key))
            for key in keys:
                self.ended(engine, key)
            found = engine.status([*keys, "nobody"])
            assert {found[key].phase for key in keys} == {Phase.ended}
            assert found["nobody"].phase is Phase.unknown
            assert engine.status([]) == {}

    def test_what_no_unit_can_give_is_refused_at_once(self) -> None:
        with closing(self.open()) as engine:
            asked = Resources(cpu=Range(100_000))
            assert engine.offers(asked) == ()
            refused = ""
            try:
                engine.submit(self.launch("a", None, asked))
            except Refused as error:
                refused = str(error)
            assert "100000" in refused
            assert "nearest unit" in refused
            assert engine.status(["a"])["a"].phase is Phase.unknown
            engine.submit(self.launch("a"))  # the key was not used up
            self.ended(engine, "a")

    def test_what_the_engine_cannot_do_is_refused_and_the_key_is_not_used_up(self) -> None:
        with closing(self.open()) as engine:
            able = engine.capabilities()
            asked = {
                "service": (able.services, Launch("a", self.command(Course()), kind="service")),
                "port": (able.listens, Launch("a", self.command(Course()), listens=True)),
                "nodes": (able.nodes, Launch("a", self.command(Course()), nodes=2)),
                "image": (able.images, Launch("a", self.command(Course()), image="example/none:1")),
                "command": (False, Launch("a", ())),
            }
            for word, (is_able, launch) in asked.items():
                if not is_able:
                    refused = ""
                    try:
                        engine.submit(launch)
                    except Refused as error:
                        refused = str(error)
                    assert word in refused
            assert engine.status(["a"])["a"].phase is Phase.unknown

    def test_offers_meet_the_request_and_come_cheapest_first(self) -> None:
        with closing(self.open()) as engine:
            offers = engine.offers(Resources())
            assert offers
            prices = [offer.price_usd_per_hour for offer in offers]
            assert prices == sorted(prices)
            assert all(offer.cpu >= 1 for offer in offers)

    def test_reaping_ends_what_is_not_kept(self) -> None:
        with closing(self.open()) as engine:
            engine.submit(self.launch("kept", Course(600)))
            engine.submit(self.launch("stray", Course(600)))
            assert engine.reap(["kept"]) == ("stray",)
            assert self.ended(engine, "stray").phase is Phase.ended
            assert engine.status(["kept"])["kept"].phase in (Phase.starting, Phase.running)
            assert engine.reap(["kept"]) == ()
            engine.stop("kept", 0)
