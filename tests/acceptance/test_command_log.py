"""The command log outlives what ends the process."""

from __future__ import annotations

from tests.acceptance.conftest import NewInstance
from tests.support.instance import a_message


async def test_a_change_is_in_the_log_when_it_is_answered_and_a_submission_when_the_process_ends_well(
    new_instance: NewInstance,
) -> None:
    instance = new_instance(SCHEDULER_ACTIVE="false")
    await instance.start()
    async with instance.client() as admin:
        await admin.post("/tenant", {"id": "acme"})
        await admin.post("/account", {"id": "main", "host": "127.0.0.1", "port": 1})
        instance.kill()
        await instance.start()
        found = (await admin.get("/command-log"))["entries"]
        assert [each["route"] for each in found] == ["/account", "/tenant"]
        await admin.submit(a_message("M1"))
        assert await instance.stop() == 0
        await instance.start()
        (newest, *others) = (await admin.get("/command-log"))["entries"]
        assert others == found
        assert (newest["route"], newest["tenant_id"]) == ("/commands/add-messages", "acme")
        assert newest["payload"] == {"messages": 1, "ids": ["M1"]}
