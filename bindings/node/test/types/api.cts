// The same types for CommonJS.
import lomusai = require('../../index.js');

const agent: lomusai.Agent = new lomusai.Agent({ name: 'a', model: 'm' });
void agent;
