"""Identities of agents, as joins leave them; each from its seed."""

from pathlib import Path

from raven.keys import PrivateKey
from raven.pki.csr import key_pem
from raven.registry.agent_state import AgentFile, AgentState, JoinDraft
from raven.wg.primitives import DhPrivateKey
from tests.pki.material import NOW, make_authority, make_key, seeded

CA = make_authority()


def keys(seed: int) -> tuple[bytes, PrivateKey]:
    return key_pem(make_key(seed)), PrivateKey.clamped(seeded(seed)(32))


def finish(draft: JoinDraft, seed: int) -> AgentState:
    leaf = CA.issue_node(f"shop-{seed}", make_key(seed).public_key(), now=NOW, random=seeded(seed))
    agent = AgentFile(
        node=f"shop-{seed}",
        cluster="lab",
        gateways=["gw.example.com:443"],
        wg_public_key=DhPrivateKey(draft.wg_private_key).public.to_base64(),
    )
    return draft.finish(certificate_pem=leaf.pem, ca_pem=CA.certificate_pem, agent=agent)


def join(directory: Path, seed: int = 1, *, force: bool = False) -> AgentState:
    draft = JoinDraft(directory, force=force, make_keys=lambda: keys(seed), now=NOW)
    state = finish(draft, seed)
    state.close()
    return state
