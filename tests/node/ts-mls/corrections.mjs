// Where ts-mls 2.0.0-rc.10 is not RFC 9420's, so that no group of others could have it as a member. Each place is
// corrected while the module is loaded; one that is not found any more ends the client.
const CORRECTIONS = {
    'dist/src/extension.js': [
        // §12.1.8.1: external_senders is a vector. The library reads and writes one sender without the vector's
        // length. It is left as bytes, like an extension that the library does not know: what the server proposes
        // as external sender it cannot verify then.
        ['defaultExtensionTypes.external_senders', 'undefined'],
    ],
    'dist/src/createCommit.js': [
        // §12.4.3.2: external_pub is an HPKEPublicKey, which has a length before it.
        ['await exportSecret(externalPub.extensionData, cs)', 'await exportSecret(externalPub.extensionData.slice(1), cs)'],
        ['extensionData: externalPub }', 'extensionData: Uint8Array.of(externalPub.length, ...externalPub) }'],
    ],
    'dist/src/ratchetTree.js': [
        // §7.1: unmerged_leaves are in order.
        ['[...parentNode.parent.unmergedLeaves, insertedLeafIndex]', '[...parentNode.parent.unmergedLeaves, insertedLeafIndex].sort((a, b) => a - b)'],
    ],
    'dist/src/clientState.js': [
        // §12.4.3.1: the nodes between a leaf and the one that lists it as unmerged list that leaf, too, but not the
        // same leaves otherwise; those above need not.
        ['!arraysEqual(dpNode.parent.unmergedLeaves, n.parent.unmergedLeaves)',
            'dp.indexOf(parentIdx) < dp.indexOf(i) && !dpNode.parent.unmergedLeaves.includes(unmergedLeaf)'],
        // §12.4: a commit with one Update or Remove needs a path, too.
        ['grouped[defaultProposalTypes.update]).length > 1', 'grouped[defaultProposalTypes.update]).length > 0'],
        ['grouped[defaultProposalTypes.remove]).length > 1', 'grouped[defaultProposalTypes.remove]).length > 0'],
    ],
};

export async function load(url, context, next) {
    const loaded = await next(url, context);
    const file = Object.keys(CORRECTIONS).find((file) => url.endsWith(`/ts-mls/${file}`));
    if (file === undefined) return loaded;
    let source = String(loaded.source);
    for (const [wrong, right] of CORRECTIONS[file]) {
        if (!source.includes(wrong)) throw new Error(`ts-mls is another one: no "${wrong}" in ${file}`);
        source = source.replaceAll(wrong, right);
    }
    return { ...loaded, source };
}
