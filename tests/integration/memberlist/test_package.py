"""memberlist can be had on its own: its distribution is built, unpacked far from this checkout, and its example is run."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words], check=True)


async def test_memberlist_installs_and_runs_without_the_rest_of_the_repository(tmp_path: Path) -> None:
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    shutil.copytree(ROOT / "memberlist", source)  # setuptools leaves its build directories behind.
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source))
    (wheel,) = wheels.glob("memberlist_py-*.whl")
    pip("install", "--no-deps", "--target", str(site), str(wheel))
    assert (site / "memberlist" / "py.typed").exists()
    assert list(site.glob("memberlist_py-*.dist-info/licenses/LICENSE"))
    program = (
        "import sys, memberlist.example as it\n"
        f"assert it.__file__.startswith({str(site)!r}), it.__file__\n"
        "import asyncio\n"
        "asyncio.run(it.main())\n"
        "ours = {'config', 'controller', 'speaker', 'kube', 'telemetry', 'cli', 'lab'}\n"
        "assert not ours & {name.partition('.')[0] for name in sys.modules}\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=tmp_path, env={"PYTHONPATH": str(site)}, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert output.decode().splitlines()[-1] == "left over: anna, bert"
